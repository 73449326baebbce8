package publish

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
)

// limit picks at most in.MaxNodes nodes. Those published before come first, so
// that a node that returns does not push out one that serves; then the zone
// with the fewest picked nodes; then the first name.
func limit(nodes []*v1.Node, in Input) []*v1.Node {
	if in.MaxNodes == 0 || len(nodes) <= in.MaxNodes {
		return nodes
	}
	rest := slices.Clone(nodes)
	perZone := map[string]int{}
	var picked []*v1.Node
	for len(picked) < in.MaxNodes {
		next := slices.MinFunc(rest, func(a, b *v1.Node) int { return compare(in, perZone, a, b) })
		rest = slices.DeleteFunc(rest, func(node *v1.Node) bool { return node == next })
		perZone[zone(next)]++
		picked = append(picked, next)
	}
	return picked
}

// compare is negative if a is to be picked before b.
func compare(in Input, perZone map[string]int, a, b *v1.Node) int {
	published := func(node *v1.Node) int {
		if isPublished(in, node) {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(published(a), published(b)),
		cmp.Compare(perZone[zone(a)], perZone[zone(b)]),
		strings.Compare(a.Name, b.Name),
	)
}

func zone(node *v1.Node) string { return node.Labels[v1.LabelTopologyZone] }
