package publish

import (
	"net/netip"
	"slices"

	"k8s.io/api/core/v1"
)

// Carried returns the status of a mirror Service: in place of each published
// address of the nodes, the one that packets to it carry when they arrive. In
// place of an external IPv4 address, which the cloud translates, that is the
// node's internal one; any other is on the node itself, and so are all where
// nothing is translated.
func Carried(published *v1.LoadBalancerStatus, nodes []*v1.Node, translated bool) *v1.LoadBalancerStatus {
	var ips []netip.Addr
	for _, node := range nodes {
		for _, a := range node.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			switch {
			case err != nil || !has(*published, ip):
			case translated && a.Type == v1.NodeExternalIP && ip.Is4():
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

// Shown returns the names of the nodes of which a status shows any address.
func Shown(status v1.LoadBalancerStatus, nodes []*v1.Node) map[string]bool {
	return Names(filter(nodes, func(node *v1.Node) bool { return shows(status, node) }))
}

// Names returns the names of nodes.
func Names(nodes []*v1.Node) map[string]bool {
	names := map[string]bool{}
	for _, node := range nodes {
		names[node.Name] = true
	}
	return names
}

func shows(status v1.LoadBalancerStatus, node *v1.Node) bool {
	return slices.ContainsFunc(node.Status.Addresses, func(a v1.NodeAddress) bool {
		ip, err := netip.ParseAddr(a.Address)
		return err == nil && has(status, ip)
	})
}

func has(status v1.LoadBalancerStatus, ip netip.Addr) bool {
	return slices.ContainsFunc(status.Ingress, func(entry v1.LoadBalancerIngress) bool { return entry.IP == ip.String() })
}
