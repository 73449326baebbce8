package provider

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

// The ConfigMap in which kubeadm keeps the configuration of all kube-proxies.
const (
	kubeProxyConfigMap = "kube-proxy"
	kubeProxyConfigKey = "config.conf"
)

// kubeProxyPeriod is how often that ConfigMap is read.
const kubeProxyPeriod = 5 * time.Minute

// kubeProxy knows how the nodes' kube-proxies run: as the cloud config says,
// else as their own configuration does.
type kubeProxy struct {
	kube kubernetes.Interface
	// told is what the cloud config says; empty: nothing.
	told config.KubeProxyMode

	mu      sync.Mutex
	mode    config.KubeProxyMode
	unknown string
}

// is returns the mode, or why it is not known.
func (k *kubeProxy) is() (mode config.KubeProxyMode, unknown string) {
	if k.told != "" {
		return k.told, ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mode, k.unknown
}

// look reads the mode, and says whether it is another than before. While the
// API is in trouble, the last known mode holds.
func (k *kubeProxy) look(ctx context.Context) (changed bool) {
	if k.told != "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	mode, err := k.read(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil && k.mode != "" && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		klog.FromContext(ctx).Error(err, "Taking kube-proxy's mode for what it was", "mode", k.mode)
		return false
	}
	before := k.mode
	k.mode, k.unknown = mode, ""
	if err != nil {
		k.unknown = err.Error()
	}
	return before != mode
}

func (k *kubeProxy) read(ctx context.Context) (config.KubeProxyMode, error) {
	found, err := k.kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, kubeProxyConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("there is no ConfigMap %s/%s (%w)", metav1.NamespaceSystem, kubeProxyConfigMap, err)
	case err != nil:
		return "", fmt.Errorf("ConfigMap %s/%s cannot be read (%w)", metav1.NamespaceSystem, kubeProxyConfigMap, err)
	}
	return kubeProxyModeOf(found)
}

// kubeProxyModeOf reads a KubeProxyConfiguration. Its default on Linux is
// iptables.
func kubeProxyModeOf(configMap *v1.ConfigMap) (config.KubeProxyMode, error) {
	var written struct{ Kind, Mode string }
	text := configMap.Data[kubeProxyConfigKey]
	if err := yaml.Unmarshal([]byte(text), &written); err != nil || written.Kind != "KubeProxyConfiguration" {
		return "", fmt.Errorf("ConfigMap %s/%s has no KubeProxyConfiguration in %s", configMap.Namespace, configMap.Name, kubeProxyConfigKey)
	}
	switch mode := config.KubeProxyMode(written.Mode); mode {
	case "":
		return config.KubeProxyIPTables, nil
	case config.KubeProxyIPTables, config.KubeProxyNFTables, config.KubeProxyIPVS:
		return mode, nil
	}
	return "", fmt.Errorf("ConfigMap %s/%s has mode %q, which hostport-ccm does not know", configMap.Namespace, configMap.Name, written.Mode)
}

// watch looks again and again until ctx is done, and calls changed when the
// mode is another.
func (k *kubeProxy) watch(ctx context.Context, every time.Duration, changed func()) {
	wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if k.look(ctx) {
			changed()
		}
	}, every, 0.1, true)
}
