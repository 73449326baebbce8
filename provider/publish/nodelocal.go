package publish

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

// NodeLocalStatus returns the status of a mirror: for each address of the nodes in in.Direct that the
// Service asks for, the address that packets to it have when they arrive at the node. For an external
// IPv4 address, which the cloud translates, that is the node's internal one. Any other address is on
// the node itself.
//
// A planned node is in it whether it is published or not. What is published follows health and
// endpoints, and is for DNS; clients use an address for longer, and with policy Local, kube-proxy
// serves it from endpoints that are terminating. Another node is in it while it is published.
//
// With in.MaxNodes it has twice as many nodes, as kube-proxy has rules for each of them on each node.
// These are the published ones, those that have just left the status, and spare ones, if possible the
// same as before.
func NodeLocalStatus(in Input, published *v1.LoadBalancerStatus) *v1.LoadBalancerStatus {
	in = in.Indexed()
	served, shown := func(node *v1.Node) bool { return in.Direct[node.Name] }, addressesIn(*published)
	nodes := slices.Concat(filter(in.Nodes, served), filter(in.Others, func(node *v1.Node) bool {
		return served(node) && hasAddress(node, shown.Has)
	}))
	if in.MaxNodes > 0 {
		nodes = in.withSpares(nodes, shown)
	}
	requested := addressesIn(v1.LoadBalancerStatus{Ingress: in.ingress(nodes)})
	var ips []netip.Addr
	for _, node := range nodes {
		for _, a := range node.Status.Addresses {
			text, ip, ok := parse(a.Address)
			switch {
			case !ok || !requested.Has(text):
			case a.Type == v1.NodeExternalIP && ip.Is4():
				for _, internal := range ofType(node, v1.NodeInternalIP, v1.IPv4Protocol, IPMode{}) {
					ips = append(ips, internal.ip)
				}
			default:
				ips = append(ips, ip)
			}
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	status := &v1.LoadBalancerStatus{}
	for _, ip := range slices.Compact(ips) {
		mode := v1.LoadBalancerIPModeVIP
		status.Ingress = append(status.Ingress, v1.LoadBalancerIngress{IP: ip.String(), IPMode: &mode})
	}
	return status
}

// withSpares returns twice in.MaxNodes of the nodes, and all whose addresses are shown.
func (in Input) withSpares(nodes []*v1.Node, shown sets.Set[string]) []*v1.Node {
	rank := func(node *v1.Node) int {
		switch {
		case hasAddress(node, shown.Has):
			return 0
		case in.isPublished(node):
			return 1
		case in.Served[node.Name]:
			return 2
		case healthy(node):
			return 3
		}
		return 4
	}
	return choose(nodes, max(2*in.MaxNodes, shown.Len()), 5, rank)
}

// OnlyOf returns the entries of a status that are addresses of the nodes.
func OnlyOf(status v1.LoadBalancerStatus, nodes []*v1.Node) *v1.LoadBalancerStatus {
	ips := AddressesOf(nodes)
	return &v1.LoadBalancerStatus{Ingress: filter(status.Ingress, func(entry v1.LoadBalancerIngress) bool { return ips.Has(entry.IP) })}
}
