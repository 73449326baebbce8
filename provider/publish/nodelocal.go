package publish

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// NodeLocalStatus returns the status of a mirror: for each published address of the nodes, the
// address that packets to it have when they arrive at the node. For an external IPv4 address, which
// the cloud translates, that is the node's internal one. Any other address is on the node itself.
func NodeLocalStatus(published *v1.LoadBalancerStatus, nodes []*v1.Node) *v1.LoadBalancerStatus {
	var ips []netip.Addr
	for _, node := range nodes {
		for _, a := range node.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			switch {
			case err != nil || !hasIP(*published, ip):
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
