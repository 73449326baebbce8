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
// does not replace one that serves; then those that kube-proxy serves already.
func (in Input) limit(nodes []*v1.Node) []*v1.Node {
	if in.MaxNodes == 0 {
		return nodes
	}
	return choose(nodes, in.MaxNodes, 3, func(node *v1.Node) int {
		switch {
		case in.isPublished(node):
			return 0
		case in.Served[node.Name]:
			return 1
		}
		return 2
	})
}

// choose returns number of the nodes, or all if there are not more: those with the lowest rank, which is
// less than ranks, among them in turn one of the zone with the fewest, and the first by name.
func choose(nodes []*v1.Node, number, ranks int, rank func(*v1.Node) int) []*v1.Node {
	if len(nodes) <= number {
		return nodes
	}
	byRank := make([][]*v1.Node, ranks)
	for _, node := range nodes {
		r := rank(node)
		byRank[r] = append(byRank[r], node)
	}
	perZone := map[string]int{}
	zone := func(node *v1.Node) string { return node.Labels[v1.LabelTopologyZone] }
	var chosen []*v1.Node
	for _, rest := range byRank {
		for len(chosen) < number && len(rest) > 0 {
			next := slices.MinFunc(rest, func(a, b *v1.Node) int {
				return cmp.Or(cmp.Compare(perZone[zone(a)], perZone[zone(b)]), strings.Compare(a.Name, b.Name))
			})
			rest = slices.DeleteFunc(rest, func(node *v1.Node) bool { return node == next })
			perZone[zone(next)]++
			chosen = append(chosen, next)
		}
	}
	return chosen
}
