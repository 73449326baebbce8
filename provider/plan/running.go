package plan

import (
	"slices"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// unrepelled returns the nodes as the Service's own proxies see them: the effect
// NoSchedule keeps new pods off a node and leaves those that run, so where one
// runs it is shown as PreferNoSchedule. Without that the last node that
// the autoscaler is to remove would leave the plan, and its port be closed, while
// it still serves.
func unrepelled(nodes []*v1.Node, o options.Options, running map[string]bool) []*v1.Node {
	tolerated := tolerations(o)
	seen := slices.Clone(nodes)
	for i, node := range nodes {
		if !running[node.Name] || tolerates(tolerated, node) {
			continue
		}
		seen[i] = node.DeepCopy()
		for j := range seen[i].Spec.Taints {
			if taint := &seen[i].Spec.Taints[j]; taint.Effect == v1.TaintEffectNoSchedule {
				taint.Effect = v1.TaintEffectPreferNoSchedule
			}
		}
	}
	return seen
}
