// Package plan works out what a Service should have: which nodes serve it,
// what is open in the firewall, and the objects that run its proxies. It is
// pure: it reads values and returns values. What of this is really there, and
// what is published, is for package publish.
package plan

import (
	"fmt"
	"slices"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Settings is what all plans of one cluster have in common.
type Settings struct {
	// ClusterID marks everything.
	ClusterID string
	// Namespace holds the proxies.
	Namespace       string
	ProxyImage      string
	ImagePullPolicy v1.PullPolicy
	// Reserved ports are refused.
	Reserved []options.PortRange
}

// Plan is what one Service should have.
type Plan struct {
	// Nodes serve the Service, healthy or not, sorted by name.
	Nodes []*v1.Node
	// Served is the Service with the ports that it gets; nil if there are none.
	Served *v1.Service
	// Conflicts are the ports left out of all that follows.
	Conflicts []Conflict
	// Awaited are the ports that it gets, and that others still have on all its
	// nodes.
	Awaited []Conflict
	// NoNodes says why there are none, if there are nodes in the cluster.
	NoNodes string
	// Held are sentences about nodes that pods of others keep from the
	// Service, and HeldNodes the names of these nodes.
	Held      []string
	HeldNodes map[string]bool
	Firewall  firewall.Spec
	// Mirror is for a Service that is served directly; for one that is not, see
	// method Proxies.
	Mirror *v1.Service

	settings Settings
	options  options.Options
}

// Make plans for one Service. nodes are all nodes of the cluster. An error
// means that the Service itself asks for something impossible: trying again
// does not help.
func Make(s Settings, svc *v1.Service, o options.Options, nodes []*v1.Node) (*Plan, error) {
	if len(svc.Spec.Ports) == 0 {
		return nil, fmt.Errorf("service %s/%s has no ports", svc.Namespace, svc.Name)
	}
	ranges, err := SourceRanges(svc)
	if err != nil {
		return nil, err
	}
	if len(clusterIPs(svc)) == 0 {
		return nil, fmt.Errorf("service %s/%s has no cluster IP to forward to: a headless Service cannot be served", svc.Namespace, svc.Name)
	}
	chosen := chooseNodes(nodes, o)
	return &Plan{
		Nodes:    chosen,
		Served:   svc,
		Mirror:   s.mirror(svc),
		settings: s,
		options:  o,
		Firewall: firewall.Spec{
			Owner:        s.Owner(svc),
			Ports:        FirewallPorts(svc),
			SourceRanges: ranges,
			Nodes:        providerIDs(chosen),
		},
	}, nil
}

// Share plans for one Service among rivals: with those of its ports that it
// gets.
func Share(s Settings, svc *v1.Service, o options.Options, nodes []*v1.Node, rivals Rivals) (*Plan, error) {
	if len(svc.Spec.Ports) == 0 {
		return Make(s, svc, o, nodes)
	}
	nodes = unrepelled(nodes, o, rivals.Running)
	conflicts := s.Conflicts(svc, o, nodes, rivals)
	served := Without(svc, conflicts)
	if len(served.Spec.Ports) == 0 {
		return &Plan{Conflicts: conflicts, Firewall: firewall.Spec{Owner: s.Owner(svc)}}, nil
	}
	p, err := Make(s, served, o, nodes)
	if err != nil {
		return nil, err
	}
	p.Conflicts = conflicts
	if !WantsDirect(svc, o) {
		p.Awaited = awaited(served, p.Nodes, rivals.Proxies)
	}
	p.HeldNodes, p.Held = heldNodes(served, p.Nodes, rivals.Pods)
	if len(p.Nodes) == 0 && len(nodes) > 0 {
		p.NoNodes = whyNone(nodes, o)
	}
	return p, nil
}

// Ports lists a Service's ports in a fixed order, each protocol and number
// once: the order in which a user writes them must not replace pods.
func Ports(svc *v1.Service) []v1.ServicePort {
	sorted := slices.Clone(svc.Spec.Ports)
	for i := range sorted {
		if sorted[i].Protocol == "" {
			sorted[i].Protocol = v1.ProtocolTCP
		}
	}
	slices.SortFunc(sorted, comparePorts)
	return slices.CompactFunc(sorted, func(a, b v1.ServicePort) bool { return comparePorts(a, b) == 0 })
}

func comparePorts(a, b v1.ServicePort) int {
	if a.Port != b.Port {
		return int(a.Port - b.Port)
	}
	return slices.Compare([]byte(a.Protocol), []byte(b.Protocol))
}

// FirewallPorts lists the ports that clients of a Service dial.
func FirewallPorts(svc *v1.Service) []firewall.Port {
	var open []firewall.Port
	for _, p := range Ports(svc) {
		open = append(open, firewall.Port{Protocol: p.Protocol, Port: uint16(p.Port)})
	}
	return open
}

// providerIDs leaves out nodes that have none yet.
func providerIDs(nodes []*v1.Node) []string {
	var ids []string
	for _, node := range nodes {
		if node.Spec.ProviderID != "" {
			ids = append(ids, node.Spec.ProviderID)
		}
	}
	return ids
}
