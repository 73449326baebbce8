package trigger

import (
	"slices"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Finalizer is our own. The standard one is not enough: the service controller
// of another cloud-controller-manager in the cluster strips it from deleting
// Services without asking whose they are.
const Finalizer = options.Prefix + "cleanup"

// view turns Services into what the standard service controller is to see.
type view struct{ classes config.Classes }

// of returns svc as the controller sees it, or false if it sees nothing.
//
// The controller takes Services without a class only, so ours lose theirs. It
// goes by the standard finalizer alone, so that stands for our own: it is shown
// exactly while ours is there, as then something may have been created. A
// Service that has become someone else's while it still bears our finalizer is
// shown as one that wants no load balancer any more.
func (v view) of(svc *v1.Service) (*v1.Service, bool) {
	balanced := svc.Spec.Type == v1.ServiceTypeLoadBalancer
	served := v.classes.Serves(svc.Spec.LoadBalancerClass)
	marked := slices.Contains(svc.Finalizers, Finalizer)
	if balanced && !served && !marked {
		return nil, false
	}
	shown := *svc
	shown.Spec.LoadBalancerClass = nil
	shown.Finalizers = slices.DeleteFunc(slices.Clone(svc.Finalizers), isCleanup)
	if marked || served && v.leftBehind(svc) {
		shown.Finalizers = append(shown.Finalizers, servicehelper.LoadBalancerCleanupFinalizer)
	}
	if balanced && !served {
		shown.Spec.Type = v1.ServiceTypeClusterIP
		// The status is the new owner's; the controller would clear it.
		shown.Status.LoadBalancer = v1.LoadBalancerStatus{}
	}
	return &shown, true
}

// leftBehind says that a Service which wants no load balancer still bears the
// standard finalizer, by some controller that is no more. Nobody but us is there
// to remove it.
func (v view) leftBehind(svc *v1.Service) bool {
	return servicehelper.HasLBFinalizer(svc) && (svc.DeletionTimestamp != nil || svc.Spec.Type != v1.ServiceTypeLoadBalancer)
}

func isCleanup(finalizer string) bool {
	return finalizer == Finalizer || finalizer == servicehelper.LoadBalancerCleanupFinalizer
}

// wants says that a Service, as shown, is to be ensured.
func wants(shown *v1.Service) bool {
	return shown.Spec.Type == v1.ServiceTypeLoadBalancer && shown.DeletionTimestamp == nil
}

// released says that a Service, as shown, goes and we have let it go.
func released(shown *v1.Service) bool {
	return shown.DeletionTimestamp != nil && !servicehelper.HasLBFinalizer(shown)
}

// unseen says that something has changed that makes Ensure necessary and that
// the service controller's own comparison does not look at.
func unseen(before, after *v1.Service) bool {
	switch {
	case !wants(after):
		return false
	case !equality.Semantic.DeepEqual(before.Spec, after.Spec):
		return true // A selector, for instance, or the cluster IPs.
	}
	return servicehelper.HasLBFinalizer(before) && !servicehelper.HasLBFinalizer(after)
}
