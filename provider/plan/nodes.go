package plan

import (
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// chooseNodes picks the nodes on which the DaemonSet runs a pod, whatever
// their health: a node that is down for a while must not make firewall rules
// come and go.
func chooseNodes(nodes []*v1.Node, o options.Options) []*v1.Node {
	wanted := chosenBy(o.NodeSelector)
	tolerated := tolerations(o)
	var chosen []*v1.Node
	for _, node := range nodes {
		if wanted(node) && tolerates(tolerated, node) {
			chosen = append(chosen, node)
		}
	}
	slices.SortFunc(chosen, func(a, b *v1.Node) int { return strings.Compare(a.Name, b.Name) })
	return chosen
}

func chosenBy(selected labels.Selector) func(*v1.Node) bool {
	selector := nodeaffinity.NewLazyErrorNodeSelector(nodeSelector(selected))
	return func(node *v1.Node) bool {
		matches, err := selector.Match(node)
		return err == nil && matches
	}
}

func tolerations(o options.Options) []v1.Toleration {
	return append(slices.Clone(daemonTolerations), o.Tolerations...)
}

func tolerates(tolerations []v1.Toleration, node *v1.Node) bool {
	_, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, tolerations, repels, false)
	return !untolerated
}

func repels(taint *v1.Taint) bool { return taint.Effect != v1.TaintEffectPreferNoSchedule }

// daemonTolerations are added to every DaemonSet's pods by its controller:
// k8s.io/kubernetes, pkg/controller/daemon/util, AddOrUpdateDaemonPodTolerations.
var daemonTolerations = func() []v1.Toleration {
	var list []v1.Toleration
	for _, key := range []string{
		v1.TaintNodeNotReady, v1.TaintNodeUnreachable, v1.TaintNodeDiskPressure,
		v1.TaintNodeMemoryPressure, v1.TaintNodePIDPressure, v1.TaintNodeUnschedulable,
	} {
		list = append(list, v1.Toleration{Key: key, Operator: v1.TolerationOpExists})
	}
	return list
}()

// notExcluded are the values of the label that keeps load balancers off a node
// which say "do not keep off": the service controller reads it with
// strconv.ParseBool and takes what it cannot read for a yes.
var notExcluded = []string{"0", "F", "FALSE", "False", "f", "false"}

// nodeSelector says the same to the DaemonSet controller and to chooseNodes:
// Linux, not excluded from load balancers, and what the user selected. The
// terms are alternatives.
func nodeSelector(selected labels.Selector) *v1.NodeSelector {
	common := append([]v1.NodeSelectorRequirement{
		{Key: v1.LabelOSStable, Operator: v1.NodeSelectorOpIn, Values: []string{"linux"}},
	}, requirements(selected)...)
	term := func(excluded v1.NodeSelectorRequirement) v1.NodeSelectorTerm {
		return v1.NodeSelectorTerm{MatchExpressions: append(slices.Clone(common), excluded)}
	}
	return &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{
		term(v1.NodeSelectorRequirement{Key: v1.LabelNodeExcludeBalancers, Operator: v1.NodeSelectorOpDoesNotExist}),
		term(v1.NodeSelectorRequirement{Key: v1.LabelNodeExcludeBalancers, Operator: v1.NodeSelectorOpIn, Values: notExcluded}),
	}}
}

var operators = map[selection.Operator]v1.NodeSelectorOperator{
	selection.In:           v1.NodeSelectorOpIn,
	selection.Equals:       v1.NodeSelectorOpIn,
	selection.DoubleEquals: v1.NodeSelectorOpIn,
	selection.NotIn:        v1.NodeSelectorOpNotIn,
	selection.NotEquals:    v1.NodeSelectorOpNotIn,
	selection.Exists:       v1.NodeSelectorOpExists,
	selection.DoesNotExist: v1.NodeSelectorOpDoesNotExist,
	selection.GreaterThan:  v1.NodeSelectorOpGt,
	selection.LessThan:     v1.NodeSelectorOpLt,
}

// requirements translates a label selector; the two languages are equally
// strong.
func requirements(selector labels.Selector) []v1.NodeSelectorRequirement {
	selected, _ := selector.Requirements()
	var list []v1.NodeSelectorRequirement
	for _, r := range selected {
		requirement := v1.NodeSelectorRequirement{Key: r.Key(), Operator: operators[r.Operator()]}
		if values := r.Values(); len(values) > 0 {
			requirement.Values = values.List()
		}
		list = append(list, requirement)
	}
	return list
}
