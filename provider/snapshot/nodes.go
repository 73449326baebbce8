package snapshot

import (
	"slices"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// SelectNodes returns the nodes on which a Service's DaemonSet runs a pod, in the order
// given. Health does not matter: a node that is down for a while must not cause firewall
// rules to come and go.
func SelectNodes(nodes []*v1.Node, o options.Options) []*v1.Node {
	matches := Matches(o.NodeSelector)
	return slices.DeleteFunc(slices.Clone(nodes), func(node *v1.Node) bool {
		return !matches(node) || !Tolerates(o, node)
	})
}

// Matches returns a function that reports whether a node matches NodeSelector(selector).
func Matches(selector labels.Selector) func(*v1.Node) bool {
	lazy := nodeaffinity.NewLazyErrorNodeSelector(NodeSelector(selector))
	return func(node *v1.Node) bool {
		matches, err := lazy.Match(node)
		return err == nil && matches
	}
}

// Tolerates reports whether a Service's proxies tolerate all taints of a node other than
// PreferNoSchedule.
func Tolerates(o options.Options, node *v1.Node) bool {
	tolerations := slices.Concat(daemonTolerations, o.Tolerations)
	enforced := func(taint *v1.Taint) bool { return taint.Effect != v1.TaintEffectPreferNoSchedule }
	_, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, tolerations, enforced, false)
	return !untolerated
}

// daemonTolerations are those that the DaemonSet controller adds to every pod: k8s.io/kubernetes,
// pkg/controller/daemon/util, AddOrUpdateDaemonPodTolerations.
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

// notExcluded are the values of the label node.kubernetes.io/exclude-from-external-load-balancers
// that do not exclude a node: the service controller reads it with strconv.ParseBool and takes
// a value that it cannot read for true.
var notExcluded = []string{"0", "F", "FALSE", "False", "f", "false"}

// NodeSelector translates a Service's node selector for the DaemonSet controller. It adds that
// nodes run Linux, are not excluded from load balancers, and have none of the names in without.
func NodeSelector(selector labels.Selector, without ...string) *v1.NodeSelector {
	common := append([]v1.NodeSelectorRequirement{
		{Key: v1.LabelOSStable, Operator: v1.NodeSelectorOpIn, Values: []string{"linux"}},
	}, requirements(selector)...)
	var fields []v1.NodeSelectorRequirement
	for _, name := range without { // The API server allows one value in each.
		fields = append(fields, v1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: v1.NodeSelectorOpNotIn, Values: []string{name}})
	}
	term := func(excluded v1.NodeSelectorRequirement) v1.NodeSelectorTerm {
		return v1.NodeSelectorTerm{MatchExpressions: append(slices.Clone(common), excluded), MatchFields: fields}
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

// requirements translates a label selector; every label selector has an equivalent.
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
