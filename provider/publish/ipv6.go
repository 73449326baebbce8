package publish

import (
	"net/netip"
	"slices"

	"k8s.io/api/core/v1"

	nodeproxy "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// answersOn says whether a node forwards packets to one of its addresses. The
// proxies of a Service that has taken on IPv6 are replaced one by one, and those
// that were there before forward IPv4 alone. Where none is ready, what is
// published stays.
func answersOn(in Input, node *v1.Node, ip netip.Addr) bool {
	if ip.Is4() || in.Direct[node.Name] {
		return true
	}
	var pods []*v1.Pod
	for _, set := range in.Sets {
		pods = append(pods, set.Pods...)
	}
	if !readyOn(pods, node.Name) {
		return has(in.Previous, ip)
	}
	return !readyOn(filter(pods, withoutIPv6), node.Name)
}

func withoutIPv6(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return slices.Contains(c.Args, nodeproxy.WithoutIPv6) })
}
