package config

import (
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// ReservedPorts are ports that nodes need themselves.
type ReservedPorts struct {
	// Ports is an entry of loadBalancer.reservedPorts.
	Ports string
	// Reason says what nodes need the ports for. It follows the word "for".
	Reason string
}

// DefaultReservedPorts are the ports of what runs on the nodes of common clusters, as listening or
// source ports. A host port takes its port on every local address of a node, those of the loopback
// interface included, also from the node's own programs.
//
// Sources: https://kubernetes.io/docs/reference/networking/ports-and-protocols/;
// cilium/cilium, Documentation/operations/system_requirements.rst; projectcalico/calico,
// felix/config/config_params.go; rancher/rke2-docs, docs/install/requirements.md, which lists the
// ports of Canal, Calico, Cilium and Flannel too; kubernetes/kubernetes,
// cluster/addons/dns/nodelocaldns/nodelocaldns.yaml; k3s agent --help, --lb-server-port, and the same
// of rke2; siderolabs/talos, pkg/machinery/constants/constants.go; RFC 2131 and RFC 8415 for DHCP;
// Google's network policies for Workload Identity Federation for GKE, which name 987 and 988.
var DefaultReservedPorts = []ReservedPorts{
	{"22/TCP", "SSH"},
	{"53", "DNS: resolvers and DNS caches on the nodes"},
	{"68/UDP", "the nodes' DHCP client"},
	{"123/UDP", "NTP: the nodes' clocks"},
	{"179/TCP", "BGP: routes of Calico, Cilium, kube-router and MetalLB"},
	{"546/UDP", "the nodes' DHCPv6 client"},
	{"987-988/TCP", "the metadata server of GKE"},
	{"2379-2381/TCP", "etcd: clients, peers, metrics"},
	{"4240/TCP", "Cilium's health checks between nodes"},
	{"4244/TCP", "the Hubble server of Cilium"},
	{"4250-4251/TCP", "mutual authentication of Cilium"},
	{"4789/UDP", "VXLAN: overlay networks of Calico, Flannel and others"},
	{"5473/TCP", "Typha of Calico"},
	{"6081/UDP", "Geneve: overlay networks of Cilium, OVN and Antrea"},
	{"6443-6444/TCP", "the API server, and its load balancer on nodes of K3s and RKE2"},
	{"7445/TCP", "the API server's load balancer on nodes of Talos Linux"},
	{"8472/UDP", "VXLAN: overlay networks of Cilium, Flannel, K3s and RKE2"},
	{"9098-9099/TCP", "health checks of Calico's Typha and Felix"},
	{"9100/TCP", "metrics of node-exporter"},
	{"9253/TCP", "metrics of NodeLocal DNSCache"},
	{"9345/TCP", "the supervisor of RKE2"},
	{"9878-9879/TCP", "health checks of Cilium's agent and Envoy"},
	{"9890-9893/TCP", "diagnostics (gops) of Cilium"},
	{"9901/TCP", "the admin API of Cilium's Envoy"},
	{"9962-9964/TCP", "metrics of Cilium"},
	{"10248-10260/TCP", "kubelet, kube-proxy, scheduler and controllers: API, health checks, metrics"},
	{"50000-50001/TCP", "the API of Talos Linux"},
	{"51820-51821/UDP", "WireGuard of Calico, Flannel and others"},
	{"51871/UDP", "WireGuard of Cilium"},
}

// defaultNodePortRange is that of the API server's flag --service-node-port-range.
const defaultNodePortRange = "30000-32767"

// noNodePorts is the value of NodePortRange that reserves none.
const noNodePorts = "none"

// Reserved are the ports that no Service gets. The zero value reserves none.
type Reserved struct {
	ports options.PortRanges
	// nodePorts is the zero value if the range of node ports is not reserved.
	nodePorts options.PortRange
}

// Reserved returns the ports that no Service gets.
func (lb *LoadBalancer) Reserved() Reserved {
	r := Reserved{ports: ParsePorts(lb.ReservedPorts)}
	if lb.NodePortRange != noNodePorts {
		r.nodePorts, _ = options.ParsePortRange(lb.NodePortRange) // validate has checked it.
	}
	return r
}

// ParsePorts parses a list of ports of a valid cloud config.
func ParsePorts(texts []string) options.PortRanges {
	var list options.PortRanges
	for _, text := range texts {
		if r, err := options.ParsePortRange(text); err == nil {
			list = append(list, r)
		}
	}
	return list
}

// Refusal returns why no Service gets a port, and what to do, as the end of a sentence that begins
// with the port. It is empty if the port is not reserved.
func (r Reserved) Refusal(protocol v1.Protocol, port int32) string {
	switch {
	case r.ports.Contains(protocol, port):
		return fmt.Sprintf("is reserved for %s: use another port, or take it off loadBalancer.reservedPorts in the cloud config if the nodes do not need it", reservationReason(protocol, port))
	case r.nodePorts.Contains(protocol, port):
		return fmt.Sprintf("is reserved for node ports, which Kubernetes gives to Services from %d to %d: use another port, or set loadBalancer.nodePortRange in the cloud config to the cluster's range", r.nodePorts.First, r.nodePorts.Last)
	}
	return ""
}

// reservationReason returns what nodes need a port for.
func reservationReason(protocol v1.Protocol, port int32) string {
	for _, entry := range DefaultReservedPorts {
		if ParsePorts([]string{entry.Ports}).Contains(protocol, port) {
			return entry.Reason
		}
	}
	return "the nodes themselves"
}
