package view

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Finalizer is our own. The standard finalizer is not enough: the service controller of another
// cloud-controller-manager in the cluster removes it from any Service that is being deleted.
const Finalizer = options.Prefix + "cleanup"

// visibility turns Services into what the standard service controller is to see.
type visibility struct{ classes config.Classes }

// of returns svc as the controller sees it, or false if it does not see it.
//   - The controller serves Services without a class only, so ours are shown without it.
//   - The controller goes by the standard finalizer, so this is shown exactly while ours is there:
//     from then on, something may have been created.
//   - A Service that is another controller's by now but still has our finalizer is shown as one that
//     wants no load balancer any more.
func (v visibility) of(svc *v1.Service) (*v1.Service, bool) {
	isLoadBalancer := svc.Spec.Type == v1.ServiceTypeLoadBalancer
	served := v.classes.Serves(svc.Spec.LoadBalancerClass)
	finalized := slices.Contains(svc.Finalizers, Finalizer)
	if isLoadBalancer && !served && !finalized {
		return nil, false
	}
	shown := *svc
	shown.Spec.LoadBalancerClass = nil
	shown.Finalizers = slices.DeleteFunc(slices.Clone(svc.Finalizers), func(f string) bool {
		return f == Finalizer || f == servicehelper.LoadBalancerCleanupFinalizer
	})
	if finalized || served && hasDanglingFinalizer(svc) {
		shown.Finalizers = append(shown.Finalizers, servicehelper.LoadBalancerCleanupFinalizer)
	}
	if isLoadBalancer && !served {
		shown.Spec.Type = v1.ServiceTypeClusterIP
		// The status is the other controller's; ours would clear it.
		shown.Status.LoadBalancer = v1.LoadBalancerStatus{}
	}
	return &shown, true
}

// hasDanglingFinalizer reports whether a Service that wants no load balancer still has the standard
// finalizer, set by a controller that does not exist any more. Nobody else would remove it.
func hasDanglingFinalizer(svc *v1.Service) bool {
	return servicehelper.HasLBFinalizer(svc) && (svc.DeletionTimestamp != nil || svc.Spec.Type != v1.ServiceTypeLoadBalancer)
}

// all returns the visible ones of the Services, as shown.
func (v visibility) all(services []*v1.Service, err error) ([]*v1.Service, error) {
	var visible []*v1.Service
	for _, svc := range services {
		if shown, ok := v.of(svc); ok {
			visible = append(visible, shown)
		}
	}
	return visible, err
}

// wanted reports whether a Service, as shown, wants a load balancer.
func wanted(shown *v1.Service) bool {
	return shown.Spec.Type == v1.ServiceTypeLoadBalancer && shown.DeletionTimestamp == nil
}

// cleaningUp reports whether a Service, as shown, wants no load balancer any more and still has what
// was made for it.
func cleaningUp(shown *v1.Service) bool { return !wanted(shown) && servicehelper.HasLBFinalizer(shown) }

// mustEnsure reports whether a Service, as shown, has to be ensured because its spec has changed or
// it has lost its finalizer. The service controller's own comparison ignores some of these changes,
// such as those of the selector or the cluster IPs.
func mustEnsure(before, after *v1.Service) bool {
	return wanted(after) && (!equality.Semantic.DeepEqual(before.Spec, after.Spec) ||
		servicehelper.HasLBFinalizer(before) && !servicehelper.HasLBFinalizer(after))
}
