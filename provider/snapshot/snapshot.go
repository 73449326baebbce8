// Package snapshot holds the state of the cluster that planning a Service needs besides the
// Service itself: the nodes, which Services claim which port of which nodes, and which ports
// kube-proxy serves there for others. A Cluster is immutable and indexed. It is built once per
// change, by pure functions, and serves the plans of all Services until the next change. Its part
// about Services is built again only if a Service has changed, and its part about nodes only if a
// node has.
package snapshot

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Cluster is the state of a cluster at one time. Nobody may change it or what it points to.
type Cluster struct {
	// Taken is when the snapshot was taken.
	Taken time.Time
	*nodeIndex
	// Services are the Services that are to be served, and what kube-proxy serves for others.
	Services *Services

	// occupants are those on single nodes, by port.
	occupants map[Port][]Occupant
}

// nodeIndex are the nodes of snapshots.
type nodeIndex struct {
	// Nodes are all nodes, sorted by name.
	Nodes []*v1.Node

	byName    map[string]*v1.Node
	addresses map[string][]netip.Addr
	byAddress map[netip.Addr][]*v1.Node

	mu sync.Mutex
	// selections are those computed so far, by the key of their options.
	selections map[selectionKey]*Selection
}

// New returns a snapshot of these nodes and Services. claimants are the Services that are to be
// served, and all are all Services of the cluster.
func New(nodes []*v1.Node, claimants []*v1.Service, admit Admit, all []*v1.Service) *Cluster {
	return IndexServices(claimants, admit, all).On(nodes)
}

// On returns a snapshot of the Services on these nodes.
func (s *Services) On(nodes []*v1.Node) *Cluster { return s.OnSince(nil, nodes) }

// OnSince is On. If the nodes are those of an earlier snapshot, it uses what was computed of them; nil:
// there is none.
func (s *Services) OnSince(earlier *Cluster, nodes []*v1.Node) *Cluster {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *v1.Node) int { return strings.Compare(a.Name, b.Name) })
	c := &Cluster{Services: s, occupants: map[Port][]Occupant{}}
	if earlier != nil && slices.Equal(earlier.Nodes, nodes) {
		c.nodeIndex = earlier.nodeIndex
	} else {
		c.nodeIndex = indexNodes(nodes)
	}
	c.addOccupants()
	return c
}

func indexNodes(nodes []*v1.Node) *nodeIndex {
	ix := &nodeIndex{
		Nodes: nodes, byName: make(map[string]*v1.Node, len(nodes)), addresses: make(map[string][]netip.Addr, len(nodes)),
		byAddress: make(map[netip.Addr][]*v1.Node, 2*len(nodes)), selections: map[selectionKey]*Selection{},
	}
	for _, node := range nodes {
		ix.byName[node.Name] = node
		ix.indexAddresses(node)
	}
	return ix
}

// Node returns a node by its name, or nil.
func (ix *nodeIndex) Node(name string) *v1.Node { return ix.byName[name] }

// Claims returns the claims to a port, the oldest first.
func (c *Cluster) Claims(port Port) []Claim {
	var claims []Claim
	for _, indexed := range c.Services.claims[port] {
		claim := *indexed
		if !claim.Rejected {
			claim.Nodes = c.Select(claim.Options).Names
		}
		claims = append(claims, claim)
	}
	return claims
}

// Select returns the nodes on which DaemonSets of Services with these options run pods. Services that
// select nodes in the same way share it, and each selection is computed once.
func (ix *nodeIndex) Select(o options.Options) *Selection {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	key := keyOf(o)
	selection := ix.selections[key]
	if selection == nil {
		nodes := SelectNodes(ix.Nodes, o)
		selection = &Selection{Nodes: nodes, Names: Names(nodes), nodes: ix}
		ix.selections[key] = selection
	}
	return selection
}

// Names returns the names of nodes.
func Names(nodes []*v1.Node) map[string]bool {
	names := make(map[string]bool, len(nodes))
	for _, node := range nodes {
		names[node.Name] = true
	}
	return names
}
