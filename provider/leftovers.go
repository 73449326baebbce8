package provider

import (
	"context"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// leftovers of the firewall are rules. In mode report they are for somebody else
// to remove.
func (o *openings) leftovers(clusterID string, mode options.FirewallMode) leftovers {
	return leftovers{
		kind: "firewall rules",
		owners: func(ctx context.Context) ([]firewall.Owner, error) {
			if mode == options.FirewallReport {
				return nil, nil
			}
			return o.firewall.Owners(ctx, clusterID)
		},
		remove: func(ctx context.Context, owner firewall.Owner) (bool, error) {
			if mode == options.FirewallReport {
				return false, nil
			}
			open, err := o.firewall.Exists(ctx, owner)
			if err != nil || !open {
				return false, err
			}
			if _, err := o.errands.finish(ctx, owner); err != nil {
				return true, fmt.Errorf("waiting for the last change: %w", ctx.Err())
			}
			return true, o.closeNow(ctx, owner, mode)
		},
	}
}

// leftovers in the cluster are objects, of whatever name, with the whole mark.
func (o objects[T]) leftovers() leftovers {
	return leftovers{kind: o.kind, owners: o.owners, remove: o.removeAll}
}

// owners reads from memory: objects that it does not know yet are looked at
// next time.
func (o objects[T]) owners(context.Context) ([]firewall.Owner, error) {
	all, err := o.list(o.settings.Selector())
	if err != nil {
		return nil, err
	}
	var owners []firewall.Owner
	for _, obj := range all {
		owner := firewall.Owner{
			ClusterID: o.settings.ClusterID,
			Service:   plan.ServiceOf(obj),
			UID:       types.UID(obj.GetLabels()[plan.LabelServiceUID]),
		}
		if owner.Service.Namespace != "" && owner.Service.Name != "" && owner.UID != "" {
			owners = append(owners, owner)
		}
	}
	return owners, nil
}

// removeAll deletes an owner's objects, each on condition that it is still the
// one that was looked at.
func (o objects[T]) removeAll(ctx context.Context, owner firewall.Owner) (bool, error) {
	all, err := o.list(o.settings.Selector())
	if err != nil {
		return false, err
	}
	removed := false
	for _, obj := range all {
		if !o.settings.Owns(remains(owner), obj) || plan.ServiceOf(obj) != owner.Service {
			continue
		}
		err := o.delete(ctx, obj)
		if err != nil && !apierrors.IsNotFound(err) {
			return removed, o.failed("deleting", obj, err)
		}
		removed = removed || err == nil
	}
	return removed, nil
}

func (o objects[T]) delete(ctx context.Context, obj T) error {
	return o.client(obj.GetNamespace()).Delete(ctx, obj.GetName(), metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: ptr.To(obj.GetUID())},
		PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
	})
}

var leftoversRemoved = metrics.NewCounterVec(&metrics.CounterOpts{
	Namespace:      "hostport_ccm",
	Name:           "leftovers_removed_total",
	Help:           "Things removed whose Service had gone without waiting for its finalizer, by kind.",
	StabilityLevel: metrics.ALPHA,
}, []string{"kind"})

var registerLeftovers = sync.OnceFunc(func() { legacyregistry.MustRegister(leftoversRemoved) })

func countLeftovers(kind string) {
	registerLeftovers()
	leftoversRemoved.WithLabelValues(kind).Inc()
}
