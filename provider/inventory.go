package provider

import (
	"context"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// serviceState is the state of a Service that is served. It has one at a time: the first that applies, in
// the order of stateOf.
type serviceState string

const (
	stateDeleting  serviceState = "deleting"
	stateRefused   serviceState = "refused"
	stateConflict  serviceState = "conflict"
	statePending   serviceState = "pending"
	statePublished serviceState = "published"
)

var serviceStates = []serviceState{stateDeleting, stateRefused, stateConflict, statePending, statePublished}

// proxyState is the state of a proxy that has not ended.
type proxyState string

const (
	proxyReady       proxyState = "ready"
	proxyNotReady    proxyState = "not_ready"
	proxyTerminating proxyState = "terminating"
)

var proxyStates = []proxyState{proxyReady, proxyNotReady, proxyTerminating}

// inventory counts what is served at a moment.
type inventory struct {
	services  map[serviceState]int
	addresses int
	// warnings counts the Services that have a warning, by its reason.
	warnings map[string]int
	proxies  map[proxyState]int
}

// takeInventory counts Services, as the service controller sees them, their warnings by UID, and proxies.
func takeInventory(services []*v1.Service, warnings map[types.UID]sets.Set[string], proxies []*v1.Pod) inventory {
	i := inventory{services: map[serviceState]int{}, warnings: map[string]int{}, proxies: map[proxyState]int{}}
	for _, svc := range services {
		if state, ours := stateOf(svc, warnings[svc.UID]); ours {
			i.services[state]++
			i.addresses += len(svc.Status.LoadBalancer.Ingress)
		}
	}
	for _, reasons := range warnings {
		for reason := range reasons {
			i.warnings[reason]++
		}
	}
	for _, proxy := range proxies {
		switch {
		case proxy.DeletionTimestamp != nil:
			i.proxies[proxyTerminating]++
		case publish.Ready(proxy):
			i.proxies[proxyReady]++
		default:
			i.proxies[proxyNotReady]++
		}
	}
	return i
}

// stateOf returns the state of a Service, or false if it is none of ours.
func stateOf(svc *v1.Service, warnings sets.Set[string]) (serviceState, bool) {
	switch {
	case svc.Spec.Type != v1.ServiceTypeLoadBalancer || svc.DeletionTimestamp != nil:
		return stateDeleting, servicehelper.HasLBFinalizer(svc)
	case warnings.Has(events.InvalidConfiguration):
		return stateRefused, true
	case meta.IsStatusConditionTrue(svc.Status.Conditions, v1.LoadBalancerPortsError):
		return stateConflict, true
	case len(svc.Status.LoadBalancer.Ingress) == 0:
		return statePending, true
	}
	return statePublished, true
}

// recorders record events. Each part that holds warnings about Services has its own.
type recorders struct{ services, reachability, saturation *events.Recorder }

func newRecorders(ctx context.Context, kube kubernetes.Interface) recorders {
	sink := events.NewEventRecorder(ctx, kube, component)
	recent := events.ListRecent(ctx, kube, component)
	return recorders{events.NewRecorder(sink, recent), events.NewRecorder(sink, recent), events.NewRecorder(sink, recent)}
}

// holding returns the reasons of the warnings that hold now, by the UIDs of their Services.
func (r recorders) holding() map[types.UID]sets.Set[string] {
	all := map[types.UID]sets.Set[string]{}
	for _, recorder := range []*events.Recorder{r.services, r.reachability, r.saturation} {
		recorder.Holding(all)
	}
	return all
}
