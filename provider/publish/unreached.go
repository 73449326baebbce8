package publish

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// reaches reports whether packets to a node in an IP family reach what serves there, as far as known.
func (in Input) reaches(node *v1.Node, f v1.IPFamily) bool {
	return in.Direct[node.Name] || !slices.Contains(in.Unreached[node.Name], f)
}

// reached reports whether packets to any address of a node reach what serves there, as far as known.
func (in Input) reached(node *v1.Node) bool {
	addresses := in.addresses(node)
	return len(addresses) == 0 || slices.ContainsFunc(addresses, func(a address) bool { return in.reaches(node, family(a.ip)) })
}

// addressesToPublish returns the addresses of the nodes that packets reach. If these are none, it
// returns all: a wrong observation must not withdraw the last address.
func (in Input) addressesToPublish(nodes []*v1.Node) []address {
	var all, reached []address
	for _, node := range nodes {
		forwarded := filter(in.addresses(node), func(a address) bool { return in.forwardsFamily(node, a.ip) })
		all = append(all, forwarded...)
		reached = append(reached, filter(forwarded, func(a address) bool { return in.reaches(node, family(a.ip)) })...)
	}
	if len(reached) == 0 {
		return all
	}
	return reached
}

// ShowsFamily reports whether a status shows any address of a node in an IP family.
func ShowsFamily(status v1.LoadBalancerStatus, node *v1.Node, f v1.IPFamily) bool {
	return slices.ContainsFunc(node.Status.Addresses, func(a v1.NodeAddress) bool {
		text, ip, ok := parse(a.Address)
		return ok && family(ip) == f && slices.ContainsFunc(status.Ingress, func(entry v1.LoadBalancerIngress) bool { return entry.IP == text })
	})
}
