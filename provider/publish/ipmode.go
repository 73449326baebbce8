package publish

import (
	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// IPMode is the mode of a status' addresses: whether kube-proxy serves clients inside the cluster
// (VIP), or they send packets to the address (Proxy). Only Direct may be empty: the API server sets
// VIP for an empty mode, and every sync would find a difference.
type IPMode struct {
	// ExternalIPv4 is for addresses that a cloud may translate, Other for those on the nodes.
	ExternalIPv4, Other v1.LoadBalancerIPMode
	// Direct is for all addresses of nodes where kube-proxy serves the Service itself, without a
	// mirror; empty: the same as on other nodes.
	Direct v1.LoadBalancerIPMode
}

// IPModes returns the modes of a Service's addresses. allPorts reports whether the Service gets all
// of its ports; direct, whether kube-proxy is to serve it on any node.
//
// VIP makes kube-proxy serve an address on every node, on all ports of the Service's spec. That is
// right for an address that no node has, as GCE's external IPv4 addresses. For an address that a
// node has, it would take packets away from the proxies, and is right only where there are none. In
// mode ipvs it would also bind the address on every node and cut its owner off.
func IPModes(env plan.Environment, allPorts, direct bool) IPMode {
	if !allPorts || env.KubeProxy == config.KubeProxyIPVS {
		return IPMode{ExternalIPv4: v1.LoadBalancerIPModeProxy, Other: v1.LoadBalancerIPModeProxy}
	}
	modes := IPMode{ExternalIPv4: v1.LoadBalancerIPModeProxy, Other: v1.LoadBalancerIPModeProxy, Direct: v1.LoadBalancerIPModeVIP}
	if env.Translated {
		modes.ExternalIPv4, modes.Direct = v1.LoadBalancerIPModeVIP, "" // A mirror has the nodes' addresses.
	}
	if env.IPMode != "" {
		modes.ExternalIPv4, modes.Other = env.IPMode, env.IPMode
	}
	if env.Translated && direct {
		modes.Other = v1.LoadBalancerIPModeProxy // The mirror's status already has these as VIP.
	}
	return modes
}
