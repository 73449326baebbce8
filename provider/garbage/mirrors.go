package garbage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// deleteStrayMirrors empties and deletes mirrors that belong to no Service of ours, among all
// Services of the cluster, whose UIDs are in existing. Somebody who removes a mirror's labels and owner references hides it from
// every other clean-up, and kube-proxy serves it for as long as it has addresses.
func (c *Collector) deleteStrayMirrors(ctx context.Context, cached []*v1.Service, existing map[types.UID]bool) error {
	namespaces := map[string]bool{}
	for _, stray := range c.strayMirrors(cached, existing) {
		namespaces[stray.Namespace] = true
	}
	var failures []error
	for namespace := range namespaces {
		live, err := c.kube.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			failures = append(failures, fmt.Errorf("listing the Services of namespace %s: %w", namespace, err))
			continue
		}
		var services []*v1.Service
		for i := range live.Items {
			services = append(services, &live.Items[i])
		}
		for _, stray := range c.strayMirrors(services, existing) {
			failures = append(failures, c.deleteStrayMirror(ctx, stray))
		}
	}
	return errors.Join(failures...)
}

// strayMirrors returns the mirrors among Services that belong to none of them. It leaves out orphans,
// which Collect deletes when their Service is certainly gone; and those without addresses and
// without our mark, which do nothing and may be anybody's.
func (c *Collector) strayMirrors(services []*v1.Service, existing map[types.UID]bool) []*v1.Service {
	mirrorOf := map[string]bool{}
	for _, svc := range services {
		if !plan.IsMirror(svc) && c.manages(svc) {
			mirrorOf[svc.Namespace+"/"+plan.Name(svc)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(services), func(svc *v1.Service) bool {
		uid := types.UID(svc.Labels[plan.LabelServiceUID])
		marked := c.settings.Selector().Matches(labels.Set(svc.Labels)) && uid != ""
		isOrphan := marked && !existing[uid] && svc.DeletionTimestamp == nil
		matters := marked || len(svc.Status.LoadBalancer.Ingress) > 0
		return !plan.IsMirror(svc) || isOrphan || !matters || mirrorOf[svc.Namespace+"/"+svc.Name]
	})
}

// deleteStrayMirror acts on the version that was read only. Without the right to delete it, an
// emptied mirror stays, as kube-proxy does not serve it.
func (c *Collector) deleteStrayMirror(ctx context.Context, stray *v1.Service) (err error) {
	if len(stray.Status.LoadBalancer.Ingress) > 0 {
		if stray, err = objects.PatchAddresses(ctx, c.kube.CoreV1(), stray, v1.LoadBalancerStatus{}); err != nil {
			return fmt.Errorf("emptying a mirror that belongs to no Service: %w", err)
		}
	}
	if stray.DeletionTimestamp != nil {
		return nil
	}
	err = c.kube.CoreV1().Services(stray.Namespace).Delete(ctx, stray.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &stray.UID, ResourceVersion: &stray.ResourceVersion},
	})
	switch {
	case apierrors.IsForbidden(err):
		klog.FromContext(ctx).Info("Cannot delete a mirror that belongs to no Service", "mirror", klog.KObj(stray), "reason", err.Error())
	case err != nil:
		return fmt.Errorf("deleting a mirror that belongs to no Service: %w", err)
	default:
		count("mirror Service")
		c.events.Normal(stray, events.OrphanedResourcesDeleted, "deleted this mirror, which belonged to no Service")
	}
	return nil
}
