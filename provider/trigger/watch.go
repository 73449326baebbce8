package trigger

import (
	"maps"
	"slices"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// Watch pokes Services when the proxies, DaemonSets and ConfigMaps that were
// made for them change in a way that matters, those that want a port of a proxy
// that is gone, and all Services when a node changes. ours must be limited to
// objects of ours. Call it before the informers are started.
func (s *Services) Watch(ours informers.SharedInformerFactory, nodes coreinformers.NodeInformer) error {
	for _, source := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{ours.Core().V1().Pods().Informer(), s.pokeOwner(podMatters, podChanged)},
		{ours.Core().V1().Pods().Informer(), s.pokeSuccessors()},
		{ours.Apps().V1().DaemonSets().Informer(), s.pokeOwner(always, edited)},
		{ours.Core().V1().ConfigMaps().Informer(), s.pokeOwner(never, edited)},
		{nodes.Informer(), s.pokeEverybody()},
	} {
		if _, err := source.informer.AddEventHandler(source.handler); err != nil {
			return err
		}
		s.mu.Lock()
		s.synced = append(s.synced, source.informer.HasSynced)
		s.mu.Unlock()
	}
	return nil
}

// pokeOwner pokes the Service that an object was made for. Additions matter if
// added says so; those of the first list never do, as every Service is ensured
// at the start anyway.
func (s *Services) pokeOwner(added func(any) bool, changed func(before, after any) bool) cache.ResourceEventHandler {
	poke := func(obj any) {
		if object, ok := deleted(obj).(metav1.Object); ok {
			s.Poke(plan.ServiceOf(object))
		}
	}
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if !initial && added(obj) {
				poke(obj)
			}
		},
		UpdateFunc: func(before, after any) {
			if changed(before, after) {
				poke(after)
			}
		},
		DeleteFunc: poke,
	}
}

func (s *Services) pokeEverybody() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(_ any, initial bool) {
			if !initial {
				s.PokeAll()
			}
		},
		UpdateFunc: func(before, after any) {
			if nodeChanged(before.(*v1.Node), after.(*v1.Node)) {
				s.PokeAll()
			}
		},
		DeleteFunc: func(any) { s.PokeAll() },
	}
}

func deleted(obj any) any {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return unknown.Obj
	}
	return obj
}

func never(any) bool { return false }

// always is for what memory may have got to know too late.
func always(any) bool { return true }

// proxyState is all of a pod that a status or an event depends on.
type proxyState struct {
	ready   bool
	node    string
	trouble publish.Trouble
}

func stateOf(obj any) proxyState {
	pod := obj.(*v1.Pod)
	trouble, _ := publish.TroubleOf(pod)
	return proxyState{publish.Ready(pod), pod.Spec.NodeName, trouble}
}

func podMatters(obj any) bool {
	state := stateOf(obj)
	return state.ready || state.trouble.Reason != ""
}

// podChanged leaves out a pod that merely gets its node.
func podChanged(before, after any) bool {
	return stateOf(before) != stateOf(after) && (podMatters(before) || podMatters(after))
}

// edited says that somebody, perhaps we, wrote an object, other than its
// status.
func edited(before, after any) bool {
	if b, ok := before.(*v1.ConfigMap); ok {
		a := after.(*v1.ConfigMap)
		return !maps.Equal(b.Data, a.Data) || len(a.BinaryData) > 0 || !maps.Equal(b.Labels, a.Labels)
	}
	b, a := before.(metav1.Object), after.(metav1.Object)
	return b.GetGeneration() != a.GetGeneration() || !maps.Equal(b.GetLabels(), a.GetLabels()) || !maps.Equal(b.GetAnnotations(), a.GetAnnotations())
}

// nodeChanged leaves out what a kubelet writes all the time.
func nodeChanged(before, after *v1.Node) bool {
	return readiness(before) != readiness(after) ||
		!slices.Equal(before.Status.Addresses, after.Status.Addresses) ||
		!maps.Equal(before.Labels, after.Labels) ||
		before.Annotations[nodeaddress.Annotation] != after.Annotations[nodeaddress.Annotation] ||
		!equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) ||
		before.Spec.Unschedulable != after.Spec.Unschedulable ||
		before.Spec.ProviderID != after.Spec.ProviderID ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil)
}

func readiness(node *v1.Node) v1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status
		}
	}
	return v1.ConditionUnknown
}
