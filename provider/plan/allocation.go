package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// allocation assigns one port of all nodes to the Services that claim it: first to the incumbents,
// on the nodes where they have it; then to the incumbents on the other nodes that they select, and
// to the other Services, each time the oldest first. A Service that is no incumbent gets the port
// on all nodes that it selects, or not at all.
type allocation struct {
	port snapshot.Port
	// held are the nodes on which Services have the port, by UID.
	held map[types.UID]map[string]bool
	// pods and occupants are what else may have the port.
	pods      []*v1.Pod
	occupants []snapshot.Occupant
	// has is the result: who has the port, by node.
	has map[string]*v1.Service
	// refusal describes what keeps the port from the Service in question; empty: nothing does.
	refusal string
}

// inOrder returns all claims, the oldest first. claims may hold an earlier state of own, which own
// replaces.
func (a *allocation) inOrder(own snapshot.Claim, claims []snapshot.Claim, keptDespiteTaint []*v1.Node) []snapshot.Claim {
	all := []snapshot.Claim{own}
	for _, c := range claims {
		if c.Service.UID == own.Service.UID {
			continue
		}
		if c.Rejected {
			c.Nodes = a.held[c.Service.UID]
		} else if more := snapshot.SelectNodes(keptDespiteTaint, c.Options); len(more) > 0 {
			c.Nodes = maps.Clone(c.Nodes)
			maps.Copy(c.Nodes, snapshot.Names(more))
		}
		all = append(all, c)
	}
	slices.SortFunc(all, snapshot.Claim.Compare)
	return all
}

// allocate sets has and refusal until it is own's turn. Claims after own do not matter, except on
// nodes where they have the port.
func (a *allocation) allocate(claims []snapshot.Claim, own snapshot.Claim) {
	var incumbents, others []snapshot.Claim
	for _, c := range claims {
		if a.keep(c) {
			incumbents = append(incumbents, c)
		} else {
			others = append(others, c)
		}
	}
	for _, c := range slices.Concat(incumbents, others) {
		refusal := a.occupiedEverywhere(c)
		if holder := a.holderAmong(c); holder != nil && !slices.ContainsFunc(incumbents, func(i snapshot.Claim) bool { return i.Service.UID == c.Service.UID }) {
			refusal = fmt.Sprintf("belongs to Service %s/%s on nodes that both select: use another port, or select other nodes by annotation %s",
				holder.Namespace, holder.Name, options.NodeSelector)
		}
		if refusal == "" {
			for node := range c.Nodes {
				if a.has[node] == nil {
					a.has[node] = c.Service
				}
			}
		}
		if c.Service.UID == own.Service.UID {
			a.refusal = refusal
			return
		}
	}
}

// keep assigns the port to a claim on the nodes that it selects and where it has the port, and
// reports whether there is any.
func (a *allocation) keep(c snapshot.Claim) bool {
	if a.occupiedEverywhere(c) != "" {
		return false
	}
	any := false
	for node := range a.held[c.Service.UID] {
		if c.Nodes[node] && a.has[node] == nil {
			a.has[node], any = c.Service, true
		}
	}
	return any
}

// holderAmong returns the oldest of the other Services that have the port on a node of a claim; nil
// if there is none.
func (a *allocation) holderAmong(c snapshot.Claim) *v1.Service {
	var oldest *v1.Service
	for node, holder := range a.has {
		if c.Nodes[node] && holder.UID != c.Service.UID &&
			(oldest == nil || snapshot.Claim{Service: holder}.Compare(snapshot.Claim{Service: oldest}) < 0) {
			oldest = holder
		}
	}
	return oldest
}

// occupiedEverywhere names one of the pods or Services that have the port, if each node of a claim
// has one; otherwise it is empty.
func (a *allocation) occupiedEverywhere(c snapshot.Claim) string {
	on, everywhere := map[string]bool{}, false
	var pods []*v1.Pod
	for _, pod := range a.pods {
		if c.Nodes[pod.Spec.NodeName] {
			pods, on[pod.Spec.NodeName] = append(pods, pod), true
		}
	}
	var services []snapshot.Occupant
	for _, o := range a.occupants {
		if o.Service.UID == c.Service.UID || o.Node != "" && !c.Nodes[o.Node] {
			continue
		}
		services, on[o.Node] = append(services, o), true
		everywhere = everywhere || o.Node == ""
	}
	byName := func(a, b metav1.Object) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	}
	const advice = "use another port, or select other nodes by annotation " + options.NodeSelector
	switch {
	case !everywhere && len(on) < len(c.Nodes):
		return ""
	case len(services) > 0:
		first := slices.MinFunc(services, func(a, b snapshot.Occupant) int { return byName(a.Service, b.Service) })
		return fmt.Sprintf("is taken by %s of Service %s/%s on nodes that the Service selects: %s", first.Field, first.Service.Namespace, first.Service.Name, advice)
	case len(pods) > 0:
		first := slices.MinFunc(pods, func(a, b *v1.Pod) int { return byName(a, b) })
		return fmt.Sprintf("is a host port of pods on all nodes that the Service selects, one is %s/%s: %s", first.Namespace, first.Name, advice)
	}
	return ""
}
