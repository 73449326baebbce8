package publish

import (
	"cmp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// IsFull reports whether a status shows as many nodes as it may, all of them healthy and served by
// kube-proxy, so that the health of no other node can change it.
func IsFull(in Input, status *v1.LoadBalancerStatus) bool {
	if in.MaxNodes == 0 || in.Local || len(in.Sets) > 0 {
		return false
	}
	in = in.Indexed()
	ips := addressesIn(*status)
	shown := filter(in.Nodes, func(node *v1.Node) bool { return healthy(node) && in.serves(node) && hasAddress(node, ips.Has) })
	return len(shown) >= in.MaxNodes
}

// limit returns at most in.MaxNodes nodes. Published nodes come first, so that a node that returns
// does not replace one that serves; then nodes of the zone with the fewest nodes; then the first
// by name.
func (in Input) limit(nodes []*v1.Node) []*v1.Node {
	if in.MaxNodes == 0 || len(nodes) <= in.MaxNodes {
		return nodes
	}
	rest := slices.Clone(nodes)
	perZone := map[string]int{}
	zone := func(node *v1.Node) string { return node.Labels[v1.LabelTopologyZone] }
	rank := func(node *v1.Node) int {
		if in.isPublished(node) {
			return 0
		}
		return 1
	}
	var picked []*v1.Node
	for len(picked) < in.MaxNodes {
		next := slices.MinFunc(rest, func(a, b *v1.Node) int {
			return cmp.Or(
				cmp.Compare(rank(a), rank(b)),
				cmp.Compare(perZone[zone(a)], perZone[zone(b)]),
				strings.Compare(a.Name, b.Name),
			)
		})
		rest = slices.DeleteFunc(rest, func(node *v1.Node) bool { return node == next })
		perZone[zone(next)]++
		picked = append(picked, next)
	}
	return picked
}
