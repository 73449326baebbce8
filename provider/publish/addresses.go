package publish

import (
	"net/netip"
	"slices"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// address is one address that a node offers.
type address struct {
	ip   netip.Addr
	mode v1.LoadBalancerIPMode
}

// addresses returns those addresses of a node that the Service wants, family
// by family: a node may have an external address in one family only.
func addresses(in Input, node *v1.Node) []address {
	families := in.Families
	if len(families) == 0 {
		families = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	}
	modes := in.IPMode
	if in.Direct[node.Name] && modes.Direct != "" {
		modes.ExternalIPv4, modes.Other = modes.Direct, modes.Direct
	}
	var list []address
	for _, f := range families {
		external := ofType(node, v1.NodeExternalIP, f, modes)
		internal := ofType(node, v1.NodeInternalIP, f, modes)
		switch {
		case in.Addresses == options.Internal:
			list = append(list, internal...)
		case in.Addresses == options.ExternalOrInternal && len(external) == 0:
			list = append(list, internal...)
		case f == v1.IPv6Protocol && len(external) == 0:
			list = append(list, public(internal)...)
		default:
			list = append(list, external...)
		}
	}
	return list
}

// public returns those that the internet can route to. An external IPv6 address
// is the node's own, untranslated. Nodes often show it as an internal one: GKE's
// do, and those whose kubelets have it in --node-ip.
func public(list []address) []address {
	return slices.DeleteFunc(list, func(a address) bool { return !a.ip.IsGlobalUnicast() || a.ip.IsPrivate() })
}

// ofType drops what is no IP address: the API server would refuse the whole
// status for it.
func ofType(node *v1.Node, kind v1.NodeAddressType, f v1.IPFamily, modes IPMode) []address {
	mode := modes.Other
	if kind == v1.NodeExternalIP && f == v1.IPv4Protocol {
		mode = modes.ExternalIPv4
	}
	var list []address
	for _, a := range node.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err == nil && a.Type == kind && family(ip) == f {
			list = append(list, address{ip, mode})
		}
	}
	return list
}

func family(ip netip.Addr) v1.IPFamily {
	if ip.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}
