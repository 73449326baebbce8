package provider

import (
	"context"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// lookTimeout bounds one look at the firewall.
const lookTimeout = time.Minute

// guardFirewall has Services ensured again, every period until ctx is done,
// whose firewall somebody else has changed. It begins when all Services are
// known, as without them whatever is open looks like a leftover.
func (l *loadBalancer) guardFirewall(ctx context.Context, synced cache.InformerSynced, period time.Duration) {
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait.Jitter(period, 0.1)):
			l.lookAtFirewall(ctx)
		}
	}
}

func (l *loadBalancer) lookAtFirewall(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	drifted, err := l.openings.firewall.Drifted(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Changes of the firewall by others go unnoticed for now")
		return
	}
	for _, owner := range drifted {
		klog.FromContext(ctx).V(4).Info("The firewall is not as it was left", "service", klog.KRef(owner.Service.Namespace, owner.Service.Name))
		l.openings.doubt(owner.UID)
		l.services.Poke(owner.Service)
	}
}

// roster lists the Services that may have something open, deleted ones that are
// not yet gone included, and those that have left type LoadBalancer but not yet
// our hands. services leaves out other load balancers' Services, but no more.
func roster(settings plan.Settings, services corelisters.ServiceLister) firewall.Roster {
	return func() []firewall.Owner {
		shown, _ := services.List(labels.Everything()) // From memory; never an error.
		var owners []firewall.Owner
		for _, svc := range shown {
			if svc.Spec.Type != v1.ServiceTypeLoadBalancer && !servicehelper.HasLBFinalizer(svc) {
				continue
			}
			owners = append(owners, settings.Owner(svc))
		}
		return owners
	}
}

func nameOf(svc *v1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
