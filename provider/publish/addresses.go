package publish

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// address is one address that can be published for a node.
type address struct {
	ip netip.Addr
	// text is the address as it is written in a status.
	text string
	mode v1.LoadBalancerIPMode
}

// addresses returns the addresses of a node that the Service asks for, by IP family: a node may
// have an external address in one family only.
func (in Input) addresses(node *v1.Node) []address {
	list, known := in.index.addresses[node.Name]
	if !known {
		list = in.findAddresses(node)
		in.index.addresses[node.Name] = list
	}
	return list
}

// hasAddressToPublish reports whether addresses returns any, mostly without making the list.
func (in Input) hasAddressToPublish(node *v1.Node) bool {
	kind := v1.NodeExternalIP
	if in.Addresses == options.Internal {
		kind = v1.NodeInternalIP
	}
	for _, a := range node.Status.Addresses {
		if a.Type != kind {
			continue
		}
		if _, ip, ok := parse(a.Address); ok && (len(in.Families) == 0 || slices.Contains(in.Families, family(ip))) {
			return true
		}
	}
	return len(in.addresses(node)) > 0
}

func (in Input) findAddresses(node *v1.Node) []address {
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
			// An external IPv6 address is on the node itself. Nodes often show it as an internal one:
			// on GKE, and where the kubelet has it in --node-ip.
			list = append(list, filter(internal, func(a address) bool { return a.ip.IsGlobalUnicast() && !a.ip.IsPrivate() })...)
		default:
			list = append(list, external...)
		}
	}
	return list
}

// ofType returns a node's addresses of one type and family. Other values than IP addresses are left
// out: the API server would refuse the whole status.
func ofType(node *v1.Node, kind v1.NodeAddressType, f v1.IPFamily, modes IPMode) []address {
	mode := modes.Other
	if kind == v1.NodeExternalIP && f == v1.IPv4Protocol {
		mode = modes.ExternalIPv4
	}
	var list []address
	for _, a := range node.Status.Addresses {
		if a.Type != kind {
			continue
		}
		if text, ip, ok := parse(a.Address); ok && family(ip) == f {
			list = append(list, address{ip, text, mode})
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

// forwardsFamily reports whether a node forwards packets to an address of this family. When a
// Service gains IPv6, its proxies are replaced one by one, and those from before forward IPv4
// only. While no proxy is ready on the node, an address stays as it is published.
func (in Input) forwardsFamily(node *v1.Node, ip netip.Addr) bool {
	if ip.Is4() || in.Direct[node.Name] {
		return true
	}
	if !in.index.ready[node.Name] {
		return in.index.places[ip.String()] > 0
	}
	return !in.index.withoutIPv6[node.Name]
}
