package direct

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// The ConfigMap in which kubeadm stores the configuration of all kube-proxies, and the label that it
// gives to their pods.
const (
	kubeProxyConfigMap = "kube-proxy"
	kubeProxyConfigKey = "config.conf"
	kubeProxyPods      = "k8s-app=kube-proxy"
	configMapName      = "ConfigMap " + metav1.NamespaceSystem + "/" + kubeProxyConfigMap
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
	mode, reason, written, err := k.read(ctx)
	if known, _ := k.Get(); mode != "" && mode != known {
		if reason, err = k.awaitsPods(ctx, written); reason != "" {
			mode = known
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
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

// read returns the mode in the ConfigMap, or the reason why it is not known, and when the ConfigMap
// was changed last. An error is temporary.
func (k *KubeProxyMode) read(ctx context.Context) (mode config.KubeProxyMode, unknownReason string, written time.Time, err error) {
	found, err := k.kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, kubeProxyConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", "there is no " + configMapName, written, nil
	case apierrors.IsForbidden(err):
		return "", "hostport-ccm may not read " + configMapName, written, nil
	case err != nil:
		return "", configMapName + " cannot be read", written, fmt.Errorf("reading %s: %w", configMapName, err)
	}
	info, err := k.kube.Discovery().ServerVersion()
	if err != nil {
		return "", "the version of Kubernetes cannot be read", written, fmt.Errorf("reading the version of Kubernetes: %w", err)
	}
	kubernetesVersion, err := version.ParseGeneric(info.GitVersion)
	if err != nil {
		return "", fmt.Sprintf("the version of Kubernetes is not valid: %s", options.Quote(info.GitVersion)), written, nil
	}
	if mode, unknownReason = parseMode(found.Data[kubeProxyConfigKey], kubernetesVersion); unknownReason != "" {
		unknownReason = configMapName + " " + unknownReason
	}
	return mode, unknownReason, lastChange(found), nil
}

// lastChange returns when an object was changed last, as the API server records it in managedFields:
// truncated to seconds, like times of creation.
func lastChange(object metav1.Object) time.Time {
	changed := object.GetCreationTimestamp().Time
	for _, entry := range object.GetManagedFields() {
		if entry.Time != nil && entry.Time.After(changed) {
			changed = entry.Time.Time
		}
	}
	return changed
}

// awaitsPods returns why a configuration from a given time does not count yet: a pod of kube-proxy
// is older and may run with the one before. The reason is empty if it counts. Pods that have ended do
// not matter, nor those that should have: their nodes are down. An error is temporary.
func (k *KubeProxyMode) awaitsPods(ctx context.Context, written time.Time) (reason string, err error) {
	pods, err := k.kube.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: kubeProxyPods})
	if err != nil {
		return "the pods of kube-proxy cannot be read", fmt.Errorf("reading the pods of kube-proxy: %w", err)
	}
	for _, pod := range pods.Items {
		ended := publish.Ended(&pod) ||
			pod.DeletionTimestamp != nil && pod.DeletionTimestamp.Time.Before(time.Now())
		if !ended && pod.CreationTimestamp.Time.Before(written) {
			return fmt.Sprintf("pod %s is older than the last change of %s (kubectl -n %s rollout restart daemonset kube-proxy)", pod.Name, configMapName, metav1.NamespaceSystem), nil
		}
	}
	return "", nil
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
