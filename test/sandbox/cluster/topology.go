// Package cluster runs a real Kubernetes cluster on one machine: a network namespace for every
// host, with the real etcd, control plane, kubelets, containerd and kube-proxies, and a gateway
// between the "internet" and the nodes.
//
// It is for tests and demonstrations. It needs root. When it stops, also after a crash, it removes
// all that it has created.
package cluster

import (
	"fmt"
	"strings"
)

// The hosts. Each has its own network namespace.
const (
	Gateway   = "gw"
	Internet  = "internet"
	Internet2 = "internet2"
	Control   = "control"
)

// Addresses of the hosts and networks.
const (
	vpcGateway  = "10.142.0.1"
	controlIP   = "10.142.0.2"
	vpcIPv6     = "2001:db8:142::/64"
	controlIPv6 = "2001:db8:142::2"
	// InternetIP is the address of the internet host, which a backend sees if the
	// client's address is preserved.
	InternetIP = "198.51.100.10"
	// Internet2IP is the address of another internet host.
	Internet2IP = "198.51.100.11"
	// InternetIPv6 and Internet2IPv6 are their addresses in a dual-stack cluster.
	InternetIPv6  = "2001:db8:51:100::10"
	Internet2IPv6 = "2001:db8:51:100::11"

	// The network between the machine and the cluster has link-local addresses, so
	// that it does not conflict with networks of the machine. The internet host is in it
	// for tests that run there and need the API server.
	machineIP       = "169.254.77.1"
	machineGateway  = "169.254.77.2"
	machineControl  = "169.254.77.3"
	machineInternet = "169.254.77.4"

	metadataIP  = "169.254.169.254"
	apiService  = "10.96.0.1"
	dnsService  = "10.96.0.10"
	clusterZone = "cluster.local"

	// SimulatorURL is the URL of the GCE simulator for the machine.
	SimulatorURL = "http://" + machineGateway + ":8080"
)

// Addresses and ranges in both IP families. Those of pods and Services are private in both.
var (
	vpcGateways  = both{vpcGateway, "2001:db8:142::1"}
	inetGateways = both{"198.51.100.1", "2001:db8:51:100::1"}
	podRange     = both{"10.244.0.0/16", "fd00:10:244::/48"}
	serviceNet   = both{"10.96.0.0/16", "fd00:10:96::/112"}
)

// The simulated project.
const (
	Project = "sandbox-project"
	NodeTag = "sandbox-node"
	Region  = "us-east1"
	// MachineType is the machine type of every instance.
	MachineType = "e2-medium"
)

// Node is one node of the cluster.
type Node struct {
	Name       string
	InternalIP string
	// ExternalIP is a 1:1 NAT on the gateway; empty on bare metal.
	ExternalIP string
	// IPv6 is external and on the node's interface, in a dual-stack cluster.
	IPv6    string
	Zone    string
	podCIDR both
}

// addresses returns the addresses on the node's interface.
func (n Node) addresses() both { return both{n.InternalIP, n.IPv6} }

func findNode(p Profile, name string) (Node, error) {
	var names []string
	for _, n := range Nodes(p) {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return Node{}, fmt.Errorf("unknown node %q: the nodes are %s", name, strings.Join(names, ", "))
}

// hostNames returns every host of a cluster of that profile.
func hostNames(p Profile) []string {
	names := []string{Gateway, Internet, Internet2, Control}
	for _, n := range Nodes(p) {
		names = append(names, n.Name)
	}
	return names
}

// Nodes returns the nodes of a cluster of that profile. Those of profile Simulated are made by tests.
func Nodes(p Profile) []Node {
	if p == Simulated {
		return nil
	}
	nodes := make([]Node, 3)
	for i := range nodes {
		nodes[i] = Node{
			Name:       fmt.Sprintf("node%d", i+1),
			InternalIP: fmt.Sprintf("10.142.0.%d", 11+i),
			IPv6:       fmt.Sprintf("2001:db8:142:0:%d::", 11+i), // the first of a /96, as a VM's is
			Zone:       fmt.Sprintf("%s-%c", Region, 'b'+rune(i)),
			podCIDR:    both{fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:10:244:%d::/64", i+1)},
		}
		if p.OnGCE() {
			nodes[i].ExternalIP = fmt.Sprintf("203.0.113.%d", 11+i)
		}
	}
	return nodes
}
