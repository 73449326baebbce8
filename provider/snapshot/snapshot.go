// Package snapshot holds the state of the cluster that planning a Service needs besides the
// Service itself: the nodes, which Services claim which port of which nodes, and which ports
// kube-proxy serves there for others. A Cluster is immutable and indexed. It is built once per
// change, by pure functions, and serves the plans of all Services until the next change.
package snapshot

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Cluster is the state of a cluster at one time. Nobody may change it or what it points to.
type Cluster struct {
	// Nodes are all nodes, sorted by name.
	Nodes []*v1.Node
	// claims are by port, the oldest Service first.
	claims map[Port][]Claim
	// occupants are by port.
	occupants map[Port][]Occupant
}

// Claim is a Service that claims a port on the nodes that it selects.
type Claim struct {
	Service *v1.Service
	Options options.Options
	// Nodes are the names of the selected nodes. Claims share this map.
	Nodes map[string]bool
	// Rejected reports that the Service cannot be served as it is. It then claims nothing but what
	// it has.
	Rejected bool
}

// Compare orders claims by age, the oldest Service first: by creationTimestamp, then by UID.
func (c Claim) Compare(other Claim) int {
	a, b := c.Service, other.Service
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
}

// Admit returns the options of a Service, or an error if it cannot be served as it is.
type Admit func(*v1.Service) (options.Options, error)

// New returns a snapshot of these nodes and Services. claimants are the Services that are to be
// served, and all are all Services of the cluster.
func New(nodes []*v1.Node, claimants []*v1.Service, admit Admit, all []*v1.Service) *Cluster {
	c := &Cluster{Nodes: slices.Clone(nodes), claims: map[Port][]Claim{}, occupants: map[Port][]Occupant{}}
	slices.SortFunc(c.Nodes, func(a, b *v1.Node) int { return strings.Compare(a.Name, b.Name) })
	c.addClaims(claimants, admit)
	c.addOccupants(all, claimants)
	return c
}

func (c *Cluster) addClaims(services []*v1.Service, admit Admit) {
	// Most Services select nodes in the same way, so each selection is computed once. The key has
	// all annotations that select nodes.
	type selection struct {
		selector, tolerations       string
		hasSelector, hasTolerations bool
	}
	selected := map[selection]map[string]bool{}
	for _, svc := range services {
		claim := Claim{Service: svc}
		var err error
		if claim.Options, err = admit(svc); err != nil {
			claim.Rejected = true
		} else {
			var key selection
			key.selector, key.hasSelector = svc.Annotations[options.NodeSelector]
			key.tolerations, key.hasTolerations = svc.Annotations[options.Tolerations]
			if selected[key] == nil {
				selected[key] = Names(SelectNodes(c.Nodes, claim.Options))
			}
			claim.Nodes = selected[key]
		}
		for _, port := range PortsOf(svc) {
			c.claims[port] = append(c.claims[port], claim)
		}
	}
	for _, claims := range c.claims {
		slices.SortFunc(claims, Claim.Compare)
	}
}

// Claims returns the claims to a port, the oldest first.
func (c *Cluster) Claims(port Port) []Claim { return c.claims[port] }

// Names returns the names of nodes.
func Names(nodes []*v1.Node) map[string]bool {
	names := map[string]bool{}
	for _, node := range nodes {
		names[node.Name] = true
	}
	return names
}
