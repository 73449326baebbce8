package provider

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

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
	// doubted says that the last look found no mode, after one that did.
	doubted bool
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

// look reads the mode, and says whether it is another than before. The error says
// that the API is in trouble; the last known mode holds meanwhile. That there is
// none any more is believed at the second look: an API server that has just
// started may deny what it has.
func (k *kubeProxy) look(ctx context.Context) (changed bool, err error) {
	if k.told != "" {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	mode, reason, err := k.read(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && mode == "" && k.mode != "" && !k.doubted {
		k.doubted, err = true, errors.New(reason)
	}
	if err != nil && k.mode != "" {
		return false, err
	}
	before := k.mode
	k.mode, k.unknown, k.doubted = mode, reason, false
	return before != mode, err
}

// read returns the mode, or why it is not known. The error is trouble that may
// pass.
func (k *kubeProxy) read(ctx context.Context) (mode config.KubeProxyMode, unknown string, err error) {
	found, err := k.kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, kubeProxyConfigMap, metav1.GetOptions{})
	const configMap = "ConfigMap " + metav1.NamespaceSystem + "/" + kubeProxyConfigMap
	switch {
	case apierrors.IsNotFound(err):
		return "", "there is no " + configMap, nil
	case apierrors.IsForbidden(err):
		return "", "hostport-ccm may not read " + configMap, nil
	case err != nil:
		return "", configMap + " cannot be read", fmt.Errorf("reading %s: %w", configMap, err)
	}
	if mode, unknown = kubeProxyModeOf(found.Data[kubeProxyConfigKey]); unknown != "" {
		unknown = configMap + " " + unknown
	}
	return mode, unknown, nil
}

// kubeProxyModeOf reads a KubeProxyConfiguration. Its default on Linux is
// iptables.
func kubeProxyModeOf(text string) (mode config.KubeProxyMode, unknown string) {
	var written struct {
		Kind string
		Mode config.KubeProxyMode
	}
	if err := yaml.Unmarshal([]byte(text), &written); err != nil || written.Kind != "KubeProxyConfiguration" {
		return "", "has no KubeProxyConfiguration in " + kubeProxyConfigKey
	}
	switch written.Mode {
	case "":
		return config.KubeProxyIPTables, ""
	case config.KubeProxyIPTables, config.KubeProxyNFTables, config.KubeProxyIPVS:
		return written.Mode, ""
	}
	return "", fmt.Sprintf("says mode %q, which hostport-ccm does not know", written.Mode)
}

// run looks at the start, until there is an answer if it comes soon: what is
// served directly must not be given up for one failed request. Then it looks
// again and again until ctx is done, and calls changed when the mode is another.
func (k *kubeProxy) run(ctx context.Context, every time.Duration, changed func()) {
	_ = wait.PollUntilContextTimeout(ctx, time.Second, lookTimeout, true, func(ctx context.Context) (bool, error) {
		_, err := k.look(ctx)
		return err == nil, nil
	})
	go wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		news, err := k.look(ctx)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Taking the mode of kube-proxy for what it was")
		}
		if news {
			changed()
		}
	}, every, 0.1, true)
}
