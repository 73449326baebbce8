// Package plan computes what a Service should have: the nodes that serve it, the ports that it
// gets, what the firewall has to allow, the objects that run its proxies, and the mirror Service
// that makes kube-proxy serve it. It is pure: values in, values out. Packages proxies and direct
// apply it; package publish decides which addresses are published.
package plan

import (
	"fmt"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
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
	// Reserved ports are never given to a Service.
	Reserved []options.PortRange
}

// Input is what a Service's plan depends on.
type Input struct {
	Service *v1.Service
	Options options.Options
	Cluster *snapshot.Cluster
	// ForeignPods are pods other than proxies that have the Service's ports as host ports.
	ForeignPods map[snapshot.Port][]*v1.Pod
	// OtherProxies are proxies of other Services that have the Service's ports, on nodes where
	// the Service has no proxy that is ready.
	OtherProxies map[snapshot.Port][]*v1.Pod
	// Running are the names of the nodes where the Service has a proxy or kube-proxy serves it.
	Running map[string]bool
}

// Plan is what one Service should have.
type Plan struct {
	// Nodes serve the Service, healthy or not, sorted by name.
	Nodes []*v1.Node
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
	// OccupiedNodes are the names of the nodes where a foreign pod has a port of the Service, and
	// Occupied are sentences about them.
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
}

// Build returns the plan of a Service. An error means that the Service asks for something that
// cannot be had until somebody edits it.
func (s Settings) Build(in Input) (*Plan, error) {
	svc := in.Service
	if len(svc.Spec.Ports) == 0 {
		return nil, fmt.Errorf("service %s/%s has no ports", svc.Namespace, svc.Name)
	}
	nodes, keptDespiteTaint := ignoreNoScheduleIfRunning(in.Cluster.Nodes, in.Options, in.Running)
	selected := snapshot.SelectNodes(nodes, in.Options)
	conflicts := s.conflicts(in, snapshot.Names(selected), keptDespiteTaint)
	served := withoutPorts(svc, conflicts)
	if len(served.Spec.Ports) == 0 {
		return &Plan{Conflicts: conflicts, Firewall: firewall.Spec{Owner: s.Owner(svc)}}, nil
	}
	ranges, err := SourceRanges(svc)
	if err != nil {
		return nil, err
	}
	if len(clusterIPs(svc)) == 0 {
		return nil, fmt.Errorf("service %s/%s has no cluster IP to forward to: a headless Service cannot be served", svc.Namespace, svc.Name)
	}
	p := &Plan{
		Nodes:     selected,
		Service:   served,
		Conflicts: conflicts,
		Mirror:    s.mirror(served),
		Firewall: firewall.Spec{
			Owner:        s.Owner(svc),
			SourceRanges: ranges,
		},
		settings: s,
		options:  in.Options,
	}
	for _, port := range snapshot.PortsOf(served) {
		p.Firewall.Ports = append(p.Firewall.Ports, firewall.Port{Protocol: port.Protocol, Port: uint16(port.Number)})
	}
	for _, node := range selected {
		if node.Spec.ProviderID != "" { // A node has none before it is initialised.
			p.Firewall.Nodes = append(p.Firewall.Nodes, node.Spec.ProviderID)
		}
	}
	if !WantsDirect(svc, in.Options) {
		p.Awaited = p.awaited(in.OtherProxies)
	}
	p.OccupiedNodes, p.Occupied = p.occupied(in.ForeignPods)
	if len(selected) == 0 && len(nodes) > 0 {
		p.NoNodes = explainNoNodes(nodes, in.Options)
	}
	return p, nil
}

// UnservedPorts are all ports of the Service that are not served on any node.
func (p *Plan) UnservedPorts() []Conflict {
	return append(p.Conflicts[:len(p.Conflicts):len(p.Conflicts)], p.Awaited...)
}
