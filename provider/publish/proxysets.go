package publish

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// ProxySet is what is observed of one of a Service's proxy sets. The sets of a Service have
// different ports, so a node serves all ports with a proxy of each.
type ProxySet struct {
	// Ports are those that the proxies are to have. One that is yet to be replaced may have others.
	Ports []snapshot.Port
	// Pods are the proxies that have not ended.
	Pods []*v1.Pod
	// Created is when the DaemonSet was created.
	Created time.Time
}

// NewSetTimeout is how long the proxies of a new set may take to become ready on a node before the
// node's address is withdrawn. It compares the API server's clock with ours; where these differ by
// more, the address is withdrawn at once.
const NewSetTimeout = 10 * time.Second

// missing returns how many of the ports a proxy does not have.
func missing(ports []snapshot.Port, pod *v1.Pod) int {
	has := sets.New(snapshot.HostPorts(pod.Spec)...)
	return len(filter(ports, func(port snapshot.Port) bool { return !has.Has(port) }))
}

// Ended reports whether a pod's containers have ended for good, as after an eviction or the shutdown
// of its node. Such a pod has no ports any more, and is nobody's proxy.
func Ended(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// Ready reports whether a proxy forwards. One that is terminating counts as not ready.
func Ready(pod *v1.Pod) bool {
	return pod.DeletionTimestamp == nil && !Ended(pod) && slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	})
}

// Running returns the names of the nodes that have a proxy, ready or not, that is not terminating.
func Running(pods []*v1.Pod) map[string]bool {
	nodes := map[string]bool{}
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && pod.Spec.NodeName != "" {
			nodes[pod.Spec.NodeName] = true
		}
	}
	return nodes
}

// Draining returns the names of the nodes that have a terminating proxy.
func Draining(pods []*v1.Pod) map[string]bool {
	nodes := map[string]bool{}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil && pod.Spec.NodeName != "" {
			nodes[pod.Spec.NodeName] = true
		}
	}
	return nodes
}

// AnyOnReadyNode reports whether a proxy exists, ready or not, on a node that is Ready. The end of
// a proxy on another node may never be reported.
func AnyOnReadyNode(pods []*v1.Pod, nodes []*v1.Node) bool {
	used := make(map[string]bool, len(pods))
	for _, pod := range pods {
		used[pod.Spec.NodeName] = true
	}
	return slices.ContainsFunc(nodes, func(node *v1.Node) bool { return used[node.Name] && NodeReady(node) })
}

// NotEnded returns the proxies, even terminating ones, that may forward now or soon. It leaves out
// those on nodes that are gone or not Ready, whose end may never be reported.
func NotEnded(pods []*v1.Pod, nodes []*v1.Node) []*v1.Pod {
	alive := snapshot.Names(filter(nodes, NodeReady))
	return filter(pods, func(pod *v1.Pod) bool {
		return !Ended(pod) && (pod.Spec.NodeName == "" || alive[pod.Spec.NodeName])
	})
}

// Unavailable counts the nodes on which no proxy can become ready for now: the node is gone or not
// Ready, or another pod has the port. Like the DaemonSet controller, it counts selected nodes and
// nodes that have a pod, even one that never terminates, as on a machine that is off.
func Unavailable(all, selected []*v1.Node, pods []*v1.Pod) int {
	// states are of the nodes that count, by name.
	type state struct{ ready, alive, waits bool }
	states := make(map[string]*state, len(selected))
	of := func(node string) *state {
		if states[node] == nil {
			states[node] = &state{}
		}
		return states[node]
	}
	for _, node := range selected {
		of(node.Name)
	}
	for _, pod := range pods {
		node := of(TargetNode(pod))
		node.ready, node.waits = node.ready || Ready(pod) && pod.Spec.NodeName != "", node.waits || waitsForPort(pod)
	}
	for _, node := range all {
		if counted, found := states[node.Name]; found {
			counted.alive = NodeReady(node)
		}
	}
	unavailable := 0
	for _, node := range states {
		if !node.ready && (!node.alive || node.waits) {
			unavailable++
		}
	}
	return unavailable
}

// RecheckAfter returns after how long the status has to be computed again, although nothing else
// may change until then; 0 means never.
func RecheckAfter(in Input) time.Duration {
	in = in.Indexed()
	switch {
	case slices.ContainsFunc(in.Nodes, func(node *v1.Node) bool { return !in.serves(node) && in.awaitsNewPorts(node) }):
		return NewSetTimeout
	case in.awaitsFirst(in.serving()):
		return firstWait
	}
	return 0
}

// awaitsNewPorts reports whether the proxies of new ports are expected on a published node, which
// serves all other ports.
func (in Input) awaitsNewPorts(node *v1.Node) bool {
	return in.isPublished(node) && in.isExpectedToServe(node) && len(in.addressesToPublish([]*v1.Node{node})) > 0
}

// isExpectedToServe reports whether a node serves each set of ports, or the proxy of a new set is
// expected there.
func (in Input) isExpectedToServe(node *v1.Node) bool {
	for i, set := range in.Sets {
		if ix := in.index.sets[i]; !ix.all[node.Name] && !set.expectedOn(ix.pods[node.Name], in.Now) {
			return false
		}
	}
	return len(in.Sets) > 0
}

// firstWait is for how long the first node that serves a Service waits for the others before the
// Service gets its first addresses, so that their order does not depend on which proxy is ready first.
const firstWait = 2 * time.Second

// awaitsFirst reports whether a Service without addresses waits for more nodes: the first of the
// serving ones has not served for firstWait yet, and proxies are expected on others.
func (in Input) awaitsFirst(serving []*v1.Node) bool {
	if len(in.Previous.Ingress) > 0 || len(in.Direct) > 0 || len(serving) == 0 {
		return false
	}
	first := in.Now
	for _, node := range serving {
		if since := in.readySince(node.Name); since.Before(first) {
			first = since
		}
	}
	expected := in.nodesWithAddress(func(node *v1.Node) bool { return healthy(node) && in.isExpectedToServe(node) })
	return len(expected) > len(serving) && in.Now.Sub(first) < firstWait
}

// readySince returns when the last proxy on a node has become ready.
func (in Input) readySince(node string) (since time.Time) {
	for _, set := range in.index.sets {
		for _, pod := range set.pods[node] {
			for _, c := range pod.Status.Conditions {
				if Ready(pod) && c.Type == v1.PodReady && c.LastTransitionTime.After(since) {
					since = c.LastTransitionTime.Time
				}
			}
		}
	}
	return since
}

// expectedOn reports whether the first proxy of a new set is still to become ready on a node, for which
// these pods were created, with nothing that prevents it but another pod that has its port. The time
// starts anew when the proxy is scheduled.
func (s ProxySet) expectedOn(pods []*v1.Pod, now time.Time) bool {
	since := s.Created
	for _, pod := range pods {
		if _, bad := ProblemOf(pod); pod.DeletionTimestamp != nil || bad && !waitsForPort(pod) || pod.CreationTimestamp.Sub(s.Created) >= NewSetTimeout {
			return false
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == v1.PodScheduled && c.Status == v1.ConditionTrue && c.LastTransitionTime.After(since) {
				since = c.LastTransitionTime.Time
			}
		}
	}
	return now.Sub(since).Abs() < NewSetTimeout
}
