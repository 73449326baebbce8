package provider

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// clusterIDBackoff retries for about 50 seconds while the API server is unavailable.
var clusterIDBackoff = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 10}

// clusterID returns the id that marks everything created for this cluster: the configured id, which
// people recognize, and the UID of the namespace kube-system. The UID never changes, and it differs
// between clusters that have the same configured id.
func clusterID(ctx context.Context, kube kubernetes.Interface, configured string) (string, error) {
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, clusterIDBackoff, func(ctx context.Context) (bool, error) {
		system, err := kube.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		switch {
		case apierrors.IsForbidden(err):
			return false, fmt.Errorf("%w: apply the manifests of this version, whose ClusterRole hostport-ccm allows it", err)
		case err == nil && system.UID == "":
			err = fmt.Errorf("namespace %s has no UID", metav1.NamespaceSystem)
		case err == nil:
			configured += "-" + string(system.UID)
			return true, nil
		}
		klog.FromContext(ctx).V(2).Info("Cannot read which cluster this is; trying again", "err", err)
		last = err
		return false, nil
	})
	if wait.Interrupted(err) && last != nil {
		err = last
	}
	if err != nil {
		return "", fmt.Errorf("reading which cluster this is: %w", err)
	}
	return configured, nil
}
