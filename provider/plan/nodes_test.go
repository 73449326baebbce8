package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func TestATaintExcludesNewProxiesAndKeepsRunningOnes(t *testing.T) {
	for name, c := range map[string]struct {
		taint   v1.Taint
		running bool
		want    int
	}{
		"NoSchedule without a running proxy": {v1.Taint{Key: "x", Effect: v1.TaintEffectNoSchedule}, false, 0},
		"NoSchedule with a running proxy":    {v1.Taint{Key: "x", Effect: v1.TaintEffectNoSchedule}, true, 1},
		"NoExecute with a running proxy":     {v1.Taint{Key: "x", Effect: v1.TaintEffectNoExecute}, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := node("n1", nil, c.taint)
			before := n.DeepCopy()
			p, err := settings.Build(Input{
				Service: service(), Options: options.Default(), Cluster: snapshot.New([]*v1.Node{n}, nil, nil, nil),
				Running: map[string]bool{"n1": c.running},
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Nodes) != c.want || len(p.Firewall.Nodes) != c.want {
				t.Errorf("%d nodes serve, %d have firewall rules, want %d", len(p.Nodes), len(p.Firewall.Nodes), c.want)
			}
			if diff := cmp.Diff(before, n); diff != "" {
				t.Errorf("the cached node was changed (-before +after):\n%s", diff)
			}
		})
	}
}
