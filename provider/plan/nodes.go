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

// nodeSet is a list of nodes, sorted by name. If selection is not nil, it is exactly those, which Services
// share.
type nodeSet struct {
	nodes     []*v1.Node
	selection *snapshot.Selection
}

// selectNodes returns the nodes that the Service selects. Where it is running, a NoSchedule taint that
// it does not tolerate does not count. The effect NoSchedule keeps new pods off a node and leaves
// running ones alone. Without this, the last node that the autoscaler is about to remove would leave
// the plan, and its port be closed, while it still serves. keptDespiteTaint are these nodes, shown with
// effect PreferNoSchedule.
func (in Input) selectNodes() (selected nodeSet, keptDespiteTaint []*v1.Node) {
	selection := in.Cluster.Select(in.Options)
	for name, running := range in.Running {
		node := in.Cluster.Node(name)
		if !running || node == nil || selection.Names[name] || snapshot.Tolerates(in.Options, node) {
			continue
		}
		shown := node.DeepCopy()
		for i := range shown.Spec.Taints {
			if taint := &shown.Spec.Taints[i]; taint.Effect == v1.TaintEffectNoSchedule {
				taint.Effect = v1.TaintEffectPreferNoSchedule
			}
		}
		keptDespiteTaint = append(keptDespiteTaint, shown)
	}
	kept := snapshot.SelectNodes(keptDespiteTaint, in.Options)
	if len(kept) == 0 {
		return nodeSet{selection.Nodes, selection}, keptDespiteTaint
	}
	all := slices.Concat(selection.Nodes, kept)
	slices.SortFunc(all, func(a, b *v1.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodeSet{nodes: all}, keptDespiteTaint
}

// without returns the nodes for which leave does not hold.
func (s nodeSet) without(leave func(*v1.Node) bool) nodeSet {
	if !slices.ContainsFunc(s.nodes, leave) {
		return s
	}
	return nodeSet{nodes: slices.DeleteFunc(slices.Clone(s.nodes), leave)}
}

func (s nodeSet) names() map[string]bool {
	if s.selection != nil {
		return s.selection.Names
	}
	return snapshot.Names(s.nodes)
}

func (s nodeSet) providerIDs() []string {
	if s.selection != nil {
		return s.selection.ProviderIDs()
	}
	return snapshot.ProviderIDs(s.nodes)
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
