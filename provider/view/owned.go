package view

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// WatchOwned enqueues a Service when its proxies, DaemonSets, ConfigMaps or mirror change in a way
// that matters; the Services that want a port of a proxy when it is gone; and those that a change of
// a node concerns. owned must be limited to objects with our mark. Call it before the informers start.
func (s *Services) WatchOwned(owned informers.SharedInformerFactory, nodes coreinformers.NodeInformer) error {
	always, never := func(any) bool { return true }, func(any) bool { return false }
	return s.addHandlers([]source{
		{owned.Core().V1().Pods().Informer(), nil, s.ownerHandler(podMatters, podChanged)},
		{owned.Core().V1().Pods().Informer(), nil, s.successorHandler()},
		{owned.Apps().V1().DaemonSets().Informer(), nil, s.ownerHandler(always, daemonSetChanged)},
		{owned.Core().V1().ConfigMaps().Informer(), nil, s.ownerHandler(never, edited)},
		{s.real.Informer(), nil, s.mirrorHandler()},
		{nodes.Informer(), nil, s.nodeHandler()},
	})
}

// source is an informer, what of its objects is kept in memory (nil: all), and a handler.
type source struct {
	informer  cache.SharedIndexInformer
	transform cache.TransformFunc
	handler   cache.ResourceEventHandler
}

func (s *Services) addHandlers(sources []source) error {
	for _, source := range sources {
		if source.transform != nil {
			if err := source.informer.SetTransform(source.transform); err != nil {
				return err
			}
		}
		if _, err := source.informer.AddEventHandler(source.handler); err != nil {
			return err
		}
		s.mu.Lock()
		s.synced = append(s.synced, source.informer.HasSynced)
		s.mu.Unlock()
	}
	return nil
}

// ownerHandler enqueues the Service for which an object was created. Objects of the initial list
// are ignored, as every Service is ensured at the start. A Service that is cleaned up waits for the end
// of all its proxies, so that of each of them is less urgent.
func (s *Services) ownerHandler(added func(any) bool, changed func(before, after any) bool) cache.ResourceEventHandler {
	enqueue := func(obj any) {
		object, ok := unwrapDeleted(obj).(metav1.Object)
		if !ok {
			return
		}
		service, delay := plan.ServiceOf(object), batchDelay
		if shown, err := s.Lister().Services(service.Namespace).Get(service.Name); err == nil && cleaningUp(shown) {
			delay = cleanupDelay
		}
		s.EnqueueAfter(service, delay)
	}
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if !initial && added(obj) {
				enqueue(obj)
			}
		},
		UpdateFunc: func(before, after any) {
			if changed(before, after) {
				enqueue(after)
			}
		},
		DeleteFunc: enqueue,
	}
}

// successorHandler enqueues the Services that want a port of another Service's proxy that has ended
// or is gone.
func (s *Services) successorHandler() cache.ResourceEventHandler {
	free := func(obj any) {
		if proxy, ok := unwrapDeleted(obj).(*v1.Pod); ok {
			s.enqueueClaimants(snapshot.HostPorts(proxy.Spec), types.UID(proxy.Labels[plan.LabelServiceUID]))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			if !publish.Ended(before.(*v1.Pod)) && publish.Ended(after.(*v1.Pod)) {
				free(after)
			}
		},
		DeleteFunc: free,
	}
}

func (s *Services) nodeHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if s.generation.Add(1); !initial {
				s.EnqueueConcerned(snapshot.NodeChange{After: obj.(*v1.Node)})
			}
		},
		UpdateFunc: func(before, after any) {
			if change := (snapshot.NodeChange{Before: before.(*v1.Node), After: after.(*v1.Node)}); nodeChanged(change.Before, change.After) {
				s.EnqueueConcerned(change)
			}
		},
		DeleteFunc: func(obj any) {
			if node, ok := unwrapDeleted(obj).(*v1.Node); ok {
				s.EnqueueConcerned(snapshot.NodeChange{Before: node})
			}
		},
	}
}

// mirrorHandler enqueues the owner of a mirror that is written by anybody or deleted. The owner is
// that of the mirror before the change: an edit may have removed its labels.
func (s *Services) mirrorHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			if old := before.(*v1.Service); plan.IsMirror(old) && !equality.Semantic.DeepEqual(old, after) {
				s.Enqueue(plan.ServiceOf(old))
			}
		},
		DeleteFunc: func(obj any) {
			if svc, ok := unwrapDeleted(obj).(*v1.Service); ok && plan.IsMirror(svc) {
				s.Enqueue(plan.ServiceOf(svc))
			}
		},
	}
}

// unwrapDeleted returns the last known state of a deleted object.
func unwrapDeleted(obj any) any {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return unknown.Obj
	}
	return obj
}

// proxyState is what statuses and events depend on of a proxy.
type proxyState struct {
	ready   bool
	node    string
	problem publish.Problem
}

func stateOf(obj any) proxyState {
	pod := obj.(*v1.Pod)
	problem, _ := publish.ProblemOf(pod)
	return proxyState{publish.Ready(pod), pod.Spec.NodeName, problem}
}

func podMatters(obj any) bool {
	state := stateOf(obj)
	return state.ready || state.problem.Reason != ""
}

// podChanged is false for a pod that is only scheduled.
func podChanged(before, after any) bool {
	return stateOf(before) != stateOf(after) && (podMatters(before) || podMatters(after))
}

// daemonSetChanged reports whether a DaemonSet was edited, or the number of pods that it lacks changed.
func daemonSetChanged(before, after any) bool {
	return edited(before, after) || plan.Missing(before.(*appsv1.DaemonSet)) != plan.Missing(after.(*appsv1.DaemonSet))
}

// edited reports whether anything but the status of an object was written.
func edited(before, after any) bool {
	if b, ok := before.(*v1.ConfigMap); ok {
		a := after.(*v1.ConfigMap)
		return !maps.Equal(b.Data, a.Data) || len(a.BinaryData) > 0 || !maps.Equal(b.Labels, a.Labels)
	}
	b, a := before.(metav1.Object), after.(metav1.Object)
	return b.GetGeneration() != a.GetGeneration() || !maps.Equal(b.GetLabels(), a.GetLabels()) || !maps.Equal(b.GetAnnotations(), a.GetAnnotations())
}

// nodeChanged ignores what a kubelet writes periodically.
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
