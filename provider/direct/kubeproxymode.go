package direct

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// The ConfigMap in which kubeadm stores the configuration of all kube-proxies, and the label that it
// gives to their pods.
const (
	kubeProxyConfigMap = "kube-proxy"
	kubeProxyConfigKey = "config.conf"
	kubeProxyPods      = "k8s-app=kube-proxy"
)

const (
	// modePeriod is how often that ConfigMap is read.
	modePeriod = 5 * time.Minute
	// modeTimeout limits a read, and the reads at the start.
	modeTimeout = time.Minute
)

// KubeProxyMode finds out the mode of the nodes' kube-proxies: as configured, else by kube-proxy's
// own configuration.
type KubeProxyMode struct {
	kube       kubernetes.Interface
	configured config.KubeProxyMode
	period     time.Duration

	mu            sync.Mutex
	mode          config.KubeProxyMode
	unknownReason string
	// missing reports that the last read found no mode although the one before did.
	missing bool
}

// NewKubeProxyMode returns the mode as configured in the cloud config. If that is empty, Run has to
// find it out.
func NewKubeProxyMode(kube kubernetes.Interface, configured config.KubeProxyMode) *KubeProxyMode {
	return &KubeProxyMode{kube: kube, configured: configured, period: modePeriod}
}

// Run reads the mode, retrying for up to a minute, since Services must not be taken from kube-proxy
// for one failed request. Then it returns, and a goroutine reads the mode every 5 minutes until ctx
// is done and calls changed when it differs.
func (k *KubeProxyMode) Run(ctx context.Context, changed func()) {
	_ = wait.PollUntilContextTimeout(ctx, time.Second, modeTimeout, true, func(ctx context.Context) (bool, error) {
		_, err := k.Refresh(ctx)
		return err == nil, nil
	})
	go wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		isNew, err := k.Refresh(ctx)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Using the last known mode of kube-proxy")
		}
		if isNew {
			changed()
		}
	}, k.period, 0.1, true)
}

// Get returns the mode; if it is empty, the reason why it is not known.
func (k *KubeProxyMode) Get() (mode config.KubeProxyMode, unknownReason string) {
	if k.configured != "" {
		return k.configured, ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mode, k.unknownReason
}

// Refresh reads the mode and reports whether it differs from the last one. On an error, or when the
// mode is missing for the first time, the last known mode is kept: an API server that has just
// started may not yet return existing objects. It is also kept while pods of kube-proxy are older
// than the configuration, as they run with the one before; without a last known mode, the mode is
// not known until they are replaced.
func (k *KubeProxyMode) Refresh(ctx context.Context) (changed bool, err error) {
	if k.configured != "" {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, modeTimeout)
	defer cancel()
	mode, reason, outdated, err := k.read(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if outdated != "" && mode != k.mode {
		mode, reason = k.mode, outdated
	}
	if err == nil && mode == "" && k.mode != "" && !k.missing {
		k.missing, err = true, errors.New(reason)
	}
	if err != nil && k.mode != "" {
		return false, err
	}
	before := k.mode
	k.mode, k.unknownReason, k.missing = mode, reason, false
	return before != mode, err
}

// read returns the mode in the ConfigMap, or the reason why it is not known. outdated is empty if all
// pods of kube-proxy were created after the last change of the ConfigMap, else it says what to do. An
// error is temporary.
func (k *KubeProxyMode) read(ctx context.Context) (mode config.KubeProxyMode, unknownReason, outdated string, err error) {
	found, err := k.kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, kubeProxyConfigMap, metav1.GetOptions{})
	const configMap = "ConfigMap " + metav1.NamespaceSystem + "/" + kubeProxyConfigMap
	switch {
	case apierrors.IsNotFound(err):
		return "", "there is no " + configMap, "", nil
	case apierrors.IsForbidden(err):
		return "", "hostport-ccm may not read " + configMap, "", nil
	case err != nil:
		return "", configMap + " cannot be read", "", fmt.Errorf("reading %s: %w", configMap, err)
	}
	info, err := k.kube.Discovery().ServerVersion()
	if err != nil {
		return "", "the version of Kubernetes cannot be read", "", fmt.Errorf("reading the version of Kubernetes: %w", err)
	}
	kubernetesVersion, err := version.ParseGeneric(info.GitVersion)
	if err != nil {
		return "", fmt.Sprintf("the version of Kubernetes is not valid: %s", options.Quote(info.GitVersion)), "", nil
	}
	if mode, unknownReason = parseMode(found.Data[kubeProxyConfigKey], kubernetesVersion); unknownReason != "" {
		return "", configMap + " " + unknownReason, "", nil
	}
	pods, err := k.kube.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: kubeProxyPods})
	if err != nil {
		return "", "the pods of kube-proxy cannot be read", "", fmt.Errorf("reading the pods of kube-proxy: %w", err)
	}
	if pod := outdatedPod(found, pods.Items); pod != "" {
		outdated = fmt.Sprintf("pod %s is older than the last change of %s (kubectl -n %s rollout restart daemonset kube-proxy)", pod, configMap, metav1.NamespaceSystem)
	}
	return mode, "", outdated, nil
}

// outdatedPod returns the name of a pod that was created before the last change of a ConfigMap that
// it reads when it starts, or the empty string. The API server records the times of changes in
// managedFields, truncated to seconds like those of creation. Pods that have ended do not count.
func outdatedPod(read *v1.ConfigMap, pods []v1.Pod) string {
	changed := read.CreationTimestamp.Time
	for _, entry := range read.ManagedFields {
		if entry.Time != nil && entry.Time.After(changed) {
			changed = entry.Time.Time
		}
	}
	for _, pod := range pods {
		ended := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
		if !ended && pod.CreationTimestamp.Time.Before(changed) {
			return pod.Name
		}
	}
	return ""
}

// nftablesByDefault is the first version of Kubernetes in which kube-proxy may choose nftables if no
// mode is set, as the source of kube-proxy 1.37.2 announces.
var nftablesByDefault = version.MustParseGeneric("1.40")

// parseMode reads a KubeProxyConfiguration. Without a mode, kube-proxy runs in mode iptables on
// Linux before nftablesByDefault; from then on its mode is not known.
func parseMode(text string, kubernetes *version.Version) (mode config.KubeProxyMode, unknownReason string) {
	var written struct {
		Kind string
		Mode config.KubeProxyMode
	}
	if err := yaml.Unmarshal([]byte(text), &written); err != nil || written.Kind != "KubeProxyConfiguration" {
		return "", "has no KubeProxyConfiguration in " + kubeProxyConfigKey
	}
	switch written.Mode {
	case "":
		if kubernetes.AtLeast(nftablesByDefault) {
			return "", fmt.Sprintf("sets no mode, and the default differs from Kubernetes %s on", nftablesByDefault)
		}
		return config.KubeProxyIPTables, ""
	case config.KubeProxyIPTables, config.KubeProxyNFTables, config.KubeProxyIPVS:
		return written.Mode, ""
	}
	return "", fmt.Sprintf("sets mode %s, which hostport-ccm does not know", options.Quote(written.Mode))
}
