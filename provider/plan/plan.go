// Package plan computes what a Service should have: the nodes that serve it, the ports that it
// gets, what the firewall has to allow, the objects that run its proxies, and the mirror Service
// that makes kube-proxy serve it. It is pure: values in, values out. Packages proxies and direct
// apply it; package publish decides which addresses are published.
package plan

import (
	"maps"
	"slices"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Settings is what all plans of one cluster have in common.
type Settings struct {
	// ClusterID is in the ownership mark of everything.
	ClusterID string
	// Namespace holds the proxies.
	Namespace       string
	ProxyImage      string
	ImagePullPolicy v1.PullPolicy
	// UserNamespaces gives each proxy pod a user namespace of its own.
	UserNamespaces bool
	// Reserved ports are never given to a Service.
	Reserved config.Reserved
}

// Input is what a Service's plan depends on.
type Input struct {
	Service *v1.Service
	Options options.Options
	Cluster *snapshot.Cluster
	// Held are the names of the nodes on which Services have the Service's ports now, by port and by
	// UID of who has it. It may lack ports that the snapshot has no other claim to.
	Held map[snapshot.Port]map[types.UID]map[string]bool
	// Occupants are other Services for which kube-proxy takes packets to the Service's ports.
	Occupants map[snapshot.Port][]snapshot.Occupant
	// ForeignPods are pods other than proxies that have the Service's ports as host ports.
	ForeignPods map[snapshot.Port][]*v1.Pod
	// OtherProxies are proxies of other Services that have the Service's ports, on nodes where
	// the Service has no proxy that is ready.
	OtherProxies map[snapshot.Port][]*v1.Pod
	// Running are the names of the nodes where the Service has a proxy or kube-proxy serves it.
	Running map[string]bool
	// Draining are the names of the nodes where a proxy of the Service is terminating. It still
	// forwards.
	Draining map[string]bool
}

// Plan is what one Service should have.
type Plan struct {
	// Nodes serve the Service, healthy or not, sorted by name. Plans share them.
	Nodes []*v1.Node
	// NodeNames are the names of Nodes. Plans share the map, so nobody may change it.
	NodeNames map[string]bool
	// Service is the Service with the ports that it gets; nil if it gets none. All fields but
	// Conflicts and Firewall.Owner are then empty.
	Service *v1.Service
	// Conflicts are the ports that the Service does not get.
	Conflicts []Conflict
	// Awaited are ports that the Service gets, but that proxies of other Services still have on
	// all of its nodes. It is empty if the Service wants datapath direct.
	Awaited []Conflict
	// NoNodes explains why Nodes is empty, if the cluster has nodes.
	NoNodes string
	// OccupiedNodes are the names of the nodes where a foreign pod has a port of the Service.
	// Occupied are sentences about them, and about nodes that are left out of Nodes because another
	// Service has a port there.
	OccupiedNodes map[string]bool
	Occupied      []string
	// Firewall is what the firewall has to allow.
	Firewall firewall.Spec
	// Mirror is the mirror that the Service gets if kube-proxy serves it where a cloud translates
	// addresses. It is always computed; direct.Manager decides whether to create it. The objects of
	// the proxies are returned by ProxySets.
	Mirror *v1.Service

	settings Settings
	options  options.Options
	// withoutNodes are the names, sorted, of nodes on which no proxy may run although they are
	// selected. Waiting there, it would get the port of another Service whose proxy is replaced.
	withoutNodes []string
}

// Build returns the plan of a Service that policy.Policy.Admit admits. An error means that the
// Service asks for something that cannot be had until somebody edits it.
func (s Settings) Build(in Input) (*Plan, error) {
	svc := in.Service
	selected, keptDespiteTaint := in.selectNodes()
	names := selected.names()
	conflicts, keptByOthers := s.conflicts(in, names, keptDespiteTaint)
	served := withoutPorts(svc, conflicts)
	if len(served.Spec.Ports) == 0 {
		return &Plan{Conflicts: conflicts, Firewall: firewall.Spec{Owner: s.Owner(svc)}}, nil
	}
	ranges, err := in.Options.ClientRanges(svc)
	if err != nil {
		return nil, err
	}
	occupied := in.occupiedNodes(served)
	serving := selected.without(func(n *v1.Node) bool { return len(keptByOthers[n.Name]) > 0 || len(occupied[n.Name]) > 0 })
	p := &Plan{
		Nodes:     serving.nodes,
		NodeNames: serving.names(),
		Service:   served,
		Conflicts: conflicts,
		Mirror:    s.mirror(served, in.Options),
		Firewall: firewall.Spec{
			Owner:         s.Owner(svc),
			SourceRanges:  ranges,
			Nodes:         serving.providerIDs(),
			Addresses:     in.addresses(serving),
			NodeSelection: nodeSelection(in.Options),
		},
		settings:     s,
		options:      in.Options,
		withoutNodes: slices.Sorted(maps.Keys(keptByOthers)),
	}
	for _, port := range snapshot.PortsOf(served) {
		p.Firewall.Ports = append(p.Firewall.Ports, firewall.Port{Protocol: port.Protocol, Port: uint16(port.Number)})
	}
	if !WantsDirect(svc, in.Options) {
		p.Awaited = p.awaited(in.OtherProxies)
	}
	p.OccupiedNodes, p.Occupied = p.occupied(in.ForeignPods)
	for _, node := range selected.nodes {
		if len(keptByOthers) > 0 || len(occupied) > 0 {
			p.Occupied = slices.Concat(p.Occupied, keptByOthers[node.Name], occupied[node.Name])
		}
	}
	if len(selected.nodes) == 0 && len(in.Cluster.Nodes) > 0 {
		p.NoNodes = explainNoNodes(in.Cluster.Nodes, in.Options)
	}
	return p, nil
}

// UnservedPorts are all ports of the Service that are not served on any node.
func (p *Plan) UnservedPorts() []Conflict {
	return append(p.Conflicts[:len(p.Conflicts):len(p.Conflicts)], p.Awaited...)
}
