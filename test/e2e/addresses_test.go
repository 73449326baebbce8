//go:build e2e

package e2e

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// addressesOf returns the addresses of nodes in each IP family of the sandbox, IPv4 first.
func addressesOf(nodes []cluster.Node, ipv4 func(cluster.Node) string) []string {
	all := ips(nodes, ipv4)
	if sandbox.IPFamily() == cluster.DualStack {
		all = append(all, ips(nodes, ipv6)...)
	}
	return all
}

func ips(nodes []cluster.Node, of func(cluster.Node) string) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, of(n))
	}
	return list
}

func externalIP(n cluster.Node) string { return n.ExternalIP }

func internalIP(n cluster.Node) string { return n.InternalIP }

func ipv6(n cluster.Node) string { return n.IPv6 }

// internetIP returns the internet host's address in the IP family of another address.
func internetIP(to string) string {
	if netip.MustParseAddr(to).Is6() {
		return cluster.InternetIPv6
	}
	return cluster.InternetIP
}

// internetIPs returns the internet host's addresses in each IP family of the sandbox.
func internetIPs() []string {
	if sandbox.IPFamily() == cluster.DualStack {
		return []string{cluster.InternetIP, cluster.InternetIPv6}
	}
	return []string{cluster.InternetIP}
}

// externalIPs returns the external IPv4 addresses of the nodes, except those of some nodes.
func externalIPs(except ...string) []string {
	var ips []string
	for _, n := range cluster.Nodes(cluster.GCE) {
		if !slices.Contains(except, n.Name) {
			ips = append(ips, n.ExternalIP)
		}
	}
	return ips
}

// externalIPv6s returns the external IPv6 addresses of the nodes in a dual-stack sandbox.
func externalIPv6s() []string { return ips(cluster.Nodes(cluster.GCE), ipv6) }

// families returns the IP families of the sandbox.
func families() []v1.IPFamily {
	if sandbox.IPFamily() == cluster.DualStack {
		return []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	}
	return []v1.IPFamily{v1.IPv4Protocol}
}
