package publish

import (
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// index is what is looked up for each node, computed once for an Input, so that a status costs time
// in proportion to the nodes and pods.
type index struct {
	// places are the addresses of the previous status, with their index counted from the end.
	places map[string]int
	// published are the names of the nodes that the previous status shows any address of.
	published map[string]bool
	addresses map[string][]address
	// healthyServing is what serving returns, once it is known, by publishedOnly.
	healthyServing map[bool][]*v1.Node
	// serving are the names of the nodes that serve all ports by proxies.
	serving map[string]bool
	sets    []setIndex
	// ready are the names of the nodes with a ready proxy, withoutIPv6 of those with one that forwards
	// IPv4 only.
	ready, withoutIPv6 map[string]bool
}

// setIndex is the nodes, by name, of one proxy set.
type setIndex struct {
	// all and some are those with a ready proxy that has all ports of the set, or any.
	all, some map[string]bool
	// pods are by the node for which they were created.
	pods map[string][]*v1.Pod
}

// Indexed returns the input with an index. The functions of this package make one themselves if the
// input has none.
func (in Input) Indexed() Input {
	if in.index != nil {
		return in
	}
	ix := &index{places: map[string]int{}, addresses: map[string][]address{}, healthyServing: map[bool][]*v1.Node{}, ready: map[string]bool{}, withoutIPv6: map[string]bool{}}
	for i, entry := range in.Previous.Ingress {
		ix.places[entry.IP] = len(in.Previous.Ingress) - i
	}
	ix.published = map[string]bool{}
	for _, nodes := range [][]*v1.Node{in.Nodes, in.Others} {
		for _, node := range nodes {
			if len(ix.places) > 0 && hasAddress(node, func(ip string) bool { return ix.places[ip] > 0 }) {
				ix.published[node.Name] = true
			}
		}
	}
	for _, set := range in.Sets {
		ix.sets = append(ix.sets, set.index())
		for _, pod := range set.Pods {
			if Ready(pod) {
				ix.ready[pod.Spec.NodeName] = true
				ix.withoutIPv6[pod.Spec.NodeName] = ix.withoutIPv6[pod.Spec.NodeName] || forwardsIPv4Only(pod)
			}
		}
	}
	ix.serving = inAll(ix.sets)
	in.index = ix
	return in
}

func (s ProxySet) index() setIndex {
	ix := setIndex{all: map[string]bool{}, some: map[string]bool{}, pods: make(map[string][]*v1.Pod, len(s.Pods))}
	wanted := sets.New(s.Ports...)
	var last []v1.Container
	served := 0
	for _, pod := range s.Pods {
		target := TargetNode(pod)
		ix.pods[target] = append(ix.pods[target], pod)
		if !Ready(pod) {
			continue
		}
		// Most pods of a set share their containers in the cache.
		if !isSame(pod.Spec.Containers, last) {
			served, last = countIn(wanted, snapshot.HostPorts(pod.Spec)), pod.Spec.Containers
		}
		node := pod.Spec.NodeName
		ix.all[node] = ix.all[node] || served == len(wanted)
		ix.some[node] = ix.some[node] || served > 0
	}
	return ix
}

func isSame(a, b []v1.Container) bool { return len(a) > 0 && len(a) == len(b) && &a[0] == &b[0] }

func countIn(wanted sets.Set[snapshot.Port], ports []snapshot.Port) int {
	n := 0
	for _, port := range slices.Compact(ports) {
		if wanted.Has(port) {
			n++
		}
	}
	return n
}

// inAll returns the names of the nodes that serve all ports of all sets.
func inAll(list []setIndex) map[string]bool {
	nodes := map[string]bool{}
	if len(list) == 0 {
		return nodes
	}
	for node := range list[0].all {
		if !slices.ContainsFunc(list, func(set setIndex) bool { return !set.all[node] }) {
			nodes[node] = true
		}
	}
	return nodes
}

// ServingNodes returns the names of the nodes where proxies of each set are Ready and have all ports of
// the set.
func ServingNodes(list []ProxySet) map[string]bool {
	var indexes []setIndex
	for _, set := range list {
		indexes = append(indexes, set.index())
	}
	return inAll(indexes)
}

func forwardsIPv4Only(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return slices.Contains(c.Args, proxyconfig.WithoutIPv6) })
}

// hasAddress reports whether any address of a node, in the form of a status, is in a set of IP addresses.
func hasAddress(node *v1.Node, in func(ip string) bool) bool {
	return slices.ContainsFunc(node.Status.Addresses, func(a v1.NodeAddress) bool {
		if !strings.Contains(a.Address, ":") { // An IPv4 address has one form only.
			return in(a.Address)
		}
		text, _, ok := parse(a.Address)
		return ok && in(text)
	})
}

// AddressesOf returns all IP addresses of nodes, as they are written in a status.
func AddressesOf(nodes []*v1.Node) sets.Set[string] {
	ips := sets.Set[string]{}
	for _, node := range nodes {
		for _, a := range node.Status.Addresses {
			if text, _, ok := parse(a.Address); ok {
				ips.Insert(text)
			}
		}
	}
	return ips
}

// ShowsAny reports whether a status shows any of these addresses.
func ShowsAny(status v1.LoadBalancerStatus, ips sets.Set[string]) bool {
	return slices.ContainsFunc(status.Ingress, func(entry v1.LoadBalancerIngress) bool { return ips.Has(entry.IP) })
}

// parse returns an IP address, and as it is written in a status.
func parse(s string) (text string, ip netip.Addr, ok bool) {
	ip, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return "", ip, false
	case ip.Is4(): // It has one form only.
		return s, ip, true
	}
	return ip.String(), ip, true
}

// addressesIn returns the addresses of a status.
func addressesIn(status v1.LoadBalancerStatus) sets.Set[string] {
	ips := make(sets.Set[string], len(status.Ingress))
	for _, entry := range status.Ingress {
		ips.Insert(entry.IP)
	}
	return ips
}
