package plan

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// ignoreNoScheduleIfRunning returns the nodes with untolerated NoSchedule taints shown as
// PreferNoSchedule where the Service is running. The effect NoSchedule keeps new pods off a node
// and leaves running ones alone. Without this, the last node that the autoscaler is about to
// remove would leave the plan, and its port be closed, while it still serves. keptDespiteTaint are the
// nodes that are shown otherwise than they are.
func ignoreNoScheduleIfRunning(nodes []*v1.Node, o options.Options, running map[string]bool) (shown, keptDespiteTaint []*v1.Node) {
	shown = slices.Clone(nodes)
	for i, node := range nodes {
		if !running[node.Name] || snapshot.Tolerates(o, node) {
			continue
		}
		shown[i] = node.DeepCopy()
		for j := range shown[i].Spec.Taints {
			if taint := &shown[i].Spec.Taints[j]; taint.Effect == v1.TaintEffectNoSchedule {
				taint.Effect = v1.TaintEffectPreferNoSchedule
			}
		}
		keptDespiteTaint = append(keptDespiteTaint, shown[i])
	}
	return shown, keptDespiteTaint
}

// explainNoNodes names, for nodes none of which is selected, the reasons and how many nodes each
// excludes.
func explainNoNodes(nodes []*v1.Node, o options.Options) string {
	eligible, selected := snapshot.Matches(labels.Everything()), snapshot.Matches(o.NodeSelector)
	var excluded, deselected, tainted int
	for _, node := range nodes {
		switch {
		case !eligible(node):
			excluded++
		case !selected(node):
			deselected++
		default:
			tainted++
		}
	}
	var causes []string
	for _, c := range []struct {
		nodes int
		words string
	}{
		{excluded, "are excluded from load balancers by label " + v1.LabelNodeExcludeBalancers + ", or do not run Linux"},
		{deselected, "do not match annotation " + options.NodeSelector},
		{tainted, "have taints that annotation " + options.Tolerations + " does not tolerate"},
	} {
		if c.nodes > 0 {
			causes = append(causes, fmt.Sprintf("%d %s", c.nodes, c.words))
		}
	}
	return fmt.Sprintf("no node serves the Service: of %d nodes, %s", len(nodes), strings.Join(causes, ", "))
}
