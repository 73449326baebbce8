package publish

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestStatusWithUnreachableNodes(t *testing.T) {
	const v4, v6 = v1.IPv4Protocol, v1.IPv6Protocol
	three := []*v1.Node{node(1), node(2), node(3)}
	serving := oneSet(pod(1, true), pod(2, true), pod(3, true))
	testStatus(t, map[string]statusCase{
		"an unreachable node leaves": {
			Input{Nodes: three, Sets: serving, Unreached: map[string][]v1.IPFamily{"n1": {v4}}}, []string{"203.0.113.2", "203.0.113.3"},
		},
		"a node that is unreachable in a family without an address stays": {
			Input{Nodes: three, Sets: serving, Unreached: map[string][]v1.IPFamily{"n1": {v6}}}, []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"},
		},
		"all stay if all are unreachable": {
			Input{Nodes: three, Sets: serving, Unreached: map[string][]v1.IPFamily{"n1": {v4}, "n2": {v4}, "n3": {v4, v6}}},
			[]string{"203.0.113.1", "203.0.113.2", "203.0.113.3"},
		},
		"an unreachable node stays while the others do not serve": {
			Input{Nodes: three, Sets: oneSet(pod(1, true), pod(2, false)), Unreached: map[string][]v1.IPFamily{"n1": {v4}}}, []string{"203.0.113.1"},
		},
		"a node that kube-proxy serves stays": {
			Input{Nodes: three, Sets: serving, Direct: map[string]bool{"n1": true}, Unreached: map[string][]v1.IPFamily{"n1": {v4}}},
			[]string{"203.0.113.1", "203.0.113.2", "203.0.113.3"},
		},
		"only the addresses of an unreachable family leave": {
			Input{Nodes: []*v1.Node{node(1, dual(1)), node(2, dual(2))}, Sets: oneSet(pod(1, true), pod(2, true)), Unreached: map[string][]v1.IPFamily{"n1": {v6}}},
			[]string{"203.0.113.1", "203.0.113.2", "2001:db8::2"},
		},
		"a family that is unreachable on all nodes leaves": {
			Input{Nodes: []*v1.Node{node(1, dual(1)), node(2, dual(2))}, Sets: oneSet(pod(1, true), pod(2, true)), Unreached: map[string][]v1.IPFamily{"n1": {v6}, "n2": {v6}}},
			[]string{"203.0.113.1", "203.0.113.2"},
		},
		"another node takes the place of an unreachable one": {
			Input{Nodes: three, Sets: serving, MaxNodes: 1, Previous: published("203.0.113.1"), Unreached: map[string][]v1.IPFamily{"n1": {v4}}}, []string{"203.0.113.2"},
		},
	})
}
