package snapshot

import (
	"maps"
	"slices"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// NodeChange is a change of a node. Before is nil for a new node, After for one that is gone.
type NodeChange struct{ Before, After *v1.Node }

// Nodes returns the node before and after the change.
func (c NodeChange) Nodes() []*v1.Node {
	return slices.DeleteFunc([]*v1.Node{c.Before, c.After}, func(node *v1.Node) bool { return node == nil })
}

// isHealthOnly reports whether nothing has changed but whether the node is Ready.
func (c NodeChange) isHealthOnly() bool {
	return c.Before != nil && c.After != nil &&
		maps.Equal(c.Before.Labels, c.After.Labels) && maps.Equal(c.Before.Annotations, c.After.Annotations) &&
		equality.Semantic.DeepEqual(c.Before.Spec, c.After.Spec) &&
		slices.Equal(c.Before.Status.Addresses, c.After.Status.Addresses) &&
		(c.Before.DeletionTimestamp == nil) == (c.After.DeletionTimestamp == nil)
}

// Footprint is what Services have on nodes.
type Footprint struct {
	// On reports whether a Service has anything on the node in question: a proxy, or an address of the
	// node in its status or that of its mirror.
	On func(*v1.Service) bool
	// IsFull reports whether a Service publishes as many nodes as it may, all of them healthy, so that
	// the health of others cannot change its status.
	IsFull func(*v1.Service) bool
}

// Concerned returns the Services whose plan or status may be different after a change of a node:
//   - those that select the node, before or after it. If only its health has changed, those that are
//     full are left out;
//   - those that have anything on it;
//   - all, if the cluster had or has no other node;
//   - those that claim a port of one of these: who has a port depends on where all of them are.
//
// The cluster is that after the change.
func (c *Cluster) Concerned(change NodeChange, footprint Footprint) []*v1.Service {
	concerned, health, first := map[*v1.Service]bool{}, change.isHealthOnly(), len(c.Nodes) <= 1
	selecting := map[selectionKey]bool{}
	for _, claim := range c.Services.claimants {
		isConcerned := first || footprint.On(claim.Service)
		if !isConcerned && !claim.Rejected && !(health && claim.Options.MaxNodes > 0 && footprint.IsFull(claim.Service)) {
			key := keyOf(claim.Options)
			selects, known := selecting[key]
			if !known {
				selects = len(SelectNodes(change.Nodes(), claim.Options)) > 0
				selecting[key] = selects
			}
			isConcerned = selects
		}
		if isConcerned {
			concerned[claim.Service] = true
			c.addCompetitors(claim.Service, concerned)
		}
	}
	return slices.Collect(maps.Keys(concerned))
}

// addCompetitors adds the Services that claim a port of another.
func (c *Cluster) addCompetitors(svc *v1.Service, to map[*v1.Service]bool) {
	for _, p := range svc.Spec.Ports {
		claims := c.Services.claims[PortOf(p)]
		if len(claims) < 2 {
			continue
		}
		for _, claim := range claims {
			to[claim.Service] = true
		}
	}
}
