package publish

import (
	"slices"
	"time"

	"k8s.io/api/core/v1"
)

// Set is the proxies of one DaemonSet. Those of a Service have different ports,
// so that a node serves it with a proxy of each.
type Set struct {
	// Pods are in any state.
	Pods []*v1.Pod
	// Since is when the DaemonSet was made.
	Since time.Time
}

// Patience is how long a set that is new may take on a node before the node's
// address leaves. It is counted by two clocks, the API server's and ours; where
// they differ by more, it leaves at once.
const Patience = 10 * time.Second

// AllReady says whether a proxy of each set is Ready on a node.
func AllReady(sets []Set, node string) bool {
	return len(sets) > 0 && !slices.ContainsFunc(sets, func(s Set) bool { return !readyOn(s.Pods, node) })
}

// Growing says whether a node stays published for a set that has yet to come
// there. That has to be looked at again after Patience.
func Growing(in Input) bool {
	return slices.ContainsFunc(in.Nodes, func(node *v1.Node) bool { return !serves(in, node) && grows(in, node) })
}

// grows says that a published node serves as it did before the Service had more
// ports, whose proxy is expected.
func grows(in Input, node *v1.Node) bool {
	return isPublished(in, node) && servesSome(in, node) && !slices.ContainsFunc(in.Sets, func(s Set) bool {
		return !readyOn(s.Pods, node.Name) && !s.expected(node.Name, in.Now)
	})
}

// servesSome says that at least some ports are served on a node.
func servesSome(in Input, node *v1.Node) bool {
	return in.Direct[node.Name] || slices.ContainsFunc(in.Sets, func(s Set) bool { return readyOn(s.Pods, node.Name) })
}

// expected says whether the first proxy of a new set is still to come to a
// node, or to become ready there, with nothing in the way but whoever has its
// port. From the moment that it has a node of its own, time begins anew.
func (s Set) expected(node string, now time.Time) bool {
	since := s.Since
	for _, pod := range s.Pods {
		if targetNode(pod) != node {
			continue
		}
		if _, bad := TroubleOf(pod); pod.DeletionTimestamp != nil || bad && !waitsForPort(pod) || pod.CreationTimestamp.Sub(s.Since) >= Patience {
			return false
		}
		since = later(since, scheduled(pod))
	}
	return now.Sub(since).Abs() < Patience
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// scheduled returns when a pod got its node; zero if it has none.
func scheduled(pod *v1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}
