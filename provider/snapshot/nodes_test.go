package snapshot

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func node(name string, labels map[string]string, taints ...v1.Taint) *v1.Node {
	all := map[string]string{v1.LabelOSStable: "linux"}
	for k, v := range labels {
		all[k] = v
	}
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: all}, Spec: v1.NodeSpec{Taints: taints}}
}

func parsed(t *testing.T, annotations map[string]string) options.Options {
	t.Helper()
	o, err := options.Parse(annotations, options.Default())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestSelectNodesFollowsLabelsAndTaints(t *testing.T) {
	noSchedule := v1.Taint{Key: "edge", Effect: v1.TaintEffectNoSchedule}
	nodes := []*v1.Node{
		node("plain", nil),
		node("pool", map[string]string{"pool": "edge"}),
		node("excluded", map[string]string{v1.LabelNodeExcludeBalancers: ""}),
		node("excluded-yes", map[string]string{v1.LabelNodeExcludeBalancers: "true"}),
		node("not-excluded", map[string]string{v1.LabelNodeExcludeBalancers: "false"}),
		node("tainted", nil, noSchedule),
		node("down", nil, v1.Taint{Key: v1.TaintNodeUnreachable, Effect: v1.TaintEffectNoExecute}, v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}),
		node("prefer-no-schedule", nil, v1.Taint{Key: "x", Effect: v1.TaintEffectPreferNoSchedule}),
		node("windows", map[string]string{v1.LabelOSStable: "windows"}),
	}
	for name, c := range map[string]struct {
		annotations map[string]string
		want        []string
	}{
		"without annotations":                  {nil, []string{"plain", "pool", "not-excluded", "down", "prefer-no-schedule"}},
		"with a node selector":                 {map[string]string{options.NodeSelector: "pool=edge"}, []string{"pool"}},
		"with a toleration":                    {map[string]string{options.Tolerations: "[{key: edge, operator: Exists}]"}, []string{"plain", "pool", "not-excluded", "tainted", "down", "prefer-no-schedule"}},
		"with a selector that matches no node": {map[string]string{options.NodeSelector: "pool=none"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, n := range SelectNodes(nodes, parsed(t, c.annotations)) {
				got = append(got, n.Name)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("nodes differ (-want +got):\n%s", diff)
			}
		})
	}
}

// The node affinity must match the nodes that the user's label selector matches.
func TestSelectedNodesMatchTheLabelSelector(t *testing.T) {
	requirement := rapid.SampledFrom([]string{"a=1", "a!=1", "a in (1,2)", "b notin (2,3)", "a", "!b", "c>1", "c<2"})
	rapid.Check(t, func(t *rapid.T) {
		selector := strings.Join(rapid.SliceOfN(requirement, 0, 3).Draw(t, "requirements"), ",")
		labels := rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.SampledFrom([]string{"1", "2", "3"})).Draw(t, "labels")
		o, err := options.Parse(map[string]string{options.NodeSelector: selector}, options.Default())
		if err != nil {
			t.Fatal(err)
		}
		n := node("n", labels)
		want := o.NodeSelector.Matches(labelSet(n.Labels))
		if got := len(SelectNodes([]*v1.Node{n}, o)) == 1; got != want {
			t.Fatalf("selector %q, labels %v: selected %t, want %t", selector, labels, got, want)
		}
	})
}

type labelSet map[string]string

func (l labelSet) Has(key string) bool              { _, ok := l[key]; return ok }
func (l labelSet) Get(key string) string            { return l[key] }
func (l labelSet) Lookup(key string) (string, bool) { v, ok := l[key]; return v, ok }
