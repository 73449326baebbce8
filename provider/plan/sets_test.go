package plan

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"pgregory.net/rapid"

	nodeproxy "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestDivide(t *testing.T) {
	type ports = []string
	for name, c := range map[string]struct {
		wanted     ports
		have, want Division
	}{
		"a new Service has one set":                             {ports{"443/TCP", "80/TCP"}, Division{}, Division{{"443/TCP", "80/TCP"}}},
		"nothing changes":                                       {ports{"443/TCP", "80/TCP"}, Division{{"80/TCP"}, {"443/TCP"}}, Division{{"80/TCP"}, {"443/TCP"}}},
		"a port that comes makes a second set":                  {ports{"443/TCP", "80/TCP"}, Division{{"80/TCP"}}, Division{{"80/TCP"}, {"443/TCP"}}},
		"the same number of another protocol too":               {ports{"80/TCP", "80/UDP"}, Division{{"80/TCP"}}, Division{{"80/TCP"}, {"80/UDP"}}},
		"the next one joins the second":                         {ports{"443/TCP", "53/UDP", "80/TCP"}, Division{{"80/TCP"}, {"443/TCP"}}, Division{{"80/TCP"}, {"443/TCP", "53/UDP"}}},
		"the first comes back where only the second is left":    {ports{"443/TCP", "80/TCP"}, Division{nil, {"443/TCP"}}, Division{{"80/TCP"}, {"443/TCP"}}},
		"a port that goes leaves the others":                    {ports{"80/TCP"}, Division{{"443/TCP", "80/TCP"}}, Division{{"80/TCP"}}},
		"a set that has lost all is gone":                       {ports{"80/TCP"}, Division{{"80/TCP"}, {"443/TCP"}}, Division{{"80/TCP"}}},
		"what is renumbered stays in its set":                   {ports{"81/TCP"}, Division{{"80/TCP"}}, Division{{"81/TCP"}}},
		"who loses, gains":                                      {ports{"443/TCP", "80/TCP", "82/TCP"}, Division{{"80/TCP", "81/TCP"}, {"443/TCP"}}, Division{{"80/TCP", "82/TCP"}, {"443/TCP"}}},
		"the second, too":                                       {ports{"443/TCP", "80/TCP", "82/TCP"}, Division{{"80/TCP"}, {"443/TCP", "81/TCP"}}, Division{{"80/TCP"}, {"443/TCP", "82/TCP"}}},
		"the set that goes on gains, and the other one is gone": {ports{"8443/TCP", "81/TCP"}, Division{{"80/TCP"}, {"443/TCP", "81/TCP"}}, Division{nil, {"81/TCP", "8443/TCP"}}},
		"all is new": {ports{"1/TCP", "2/TCP"}, Division{{"80/TCP"}, {"443/TCP"}}, Division{{"1/TCP", "2/TCP"}}},
		"a port that two sets have is left to the first": {ports{"443/TCP", "80/TCP"}, Division{{"80/TCP"}, {"443/TCP", "80/TCP"}}, Division{{"80/TCP"}, {"443/TCP"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Divide(c.wanted, c.have)); diff != "" {
				t.Errorf("divided differently (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPropertyOfADivision(t *testing.T) {
	someOf := func(t *rapid.T, what string) []string {
		picked := rapid.SliceOfDistinct(rapid.IntRange(1, 8), rapid.ID[int]).Draw(t, what)
		var keys []string
		for _, n := range picked {
			keys = append(keys, fmt.Sprintf("%d/TCP", n))
		}
		slices.Sort(keys)
		return keys
	}
	rapid.Check(t, func(t *rapid.T) {
		wanted, have := someOf(t, "wanted"), Division{someOf(t, "first"), someOf(t, "second")}
		next := Divide(wanted, have)
		all := slices.Concat(next[0], next[1])
		slices.Sort(all)
		if !slices.Equal(all, wanted) {
			t.Fatalf("%v has other ports than %v", next, wanted)
		}
		if again := Divide(wanted, next); !again.Equal(next) {
			t.Fatalf("%v becomes %v", next, again)
		}
		moved := sets.New(next[0]...).Intersection(sets.New(have[1]...)).Difference(sets.New(have[0]...))
		moved = moved.Union(sets.New(next[1]...).Intersection(sets.New(have[0]...)))
		if len(moved) > 0 {
			t.Fatalf("%v moved from one set to the other: %v to %v", sets.List(moved), have, next)
		}
		losing := func(i int) bool { return !sets.New(next[i]...).HasAll(have[i]...) }
		gaining := func(i int) bool { return !sets.New(have[i]...).HasAll(next[i]...) }
		for i := range have {
			replaced := len(have[i]) > 0 && len(next[i]) > 0 && gaining(i) && !losing(i)
			if replaced && (losing(1-i) && len(next[1-i]) > 0 || len(have[1-i]) == 0) {
				t.Fatalf("set %d is replaced although it loses nothing: %v to %v", i, have, next)
			}
		}
	})
}

func TestSetsOfProxiesHaveNothingInCommon(t *testing.T) {
	p := mustMake(t, service(), options.Default())
	all := p.Proxies(Division{{"80/TCP"}, {"53/UDP"}})
	first, second := all[0].DaemonSet, all[1].DaemonSet
	if got := (Division{HostPorts(first.Spec.Template.Spec), HostPorts(second.Spec.Template.Spec)}); !got.Equal(Division{{"80/TCP"}, {"53/UDP"}}) {
		t.Errorf("the sets have %v", got)
	}
	pod := &v1.Pod{ObjectMeta: second.Spec.Template.ObjectMeta}
	if InSet(first, pod) || !InSet(second, pod) {
		t.Errorf("a pod of the second set, with labels %v, is one of the first", pod.Labels)
	}
	for i, set := range all {
		config, err := nodeproxy.Parse([]byte(set.ConfigMap.Data[nodeproxy.FileName]))
		if err != nil || len(config.Ports) != 1 {
			t.Errorf("the config of set %d has ports %v (%v)", i, config.Ports, err)
		}
		if read := set.DaemonSet.Spec.Template.Spec.Volumes[0].ConfigMap.Name; read != set.ConfigMap.Name || read != set.Name {
			t.Errorf("set %d is called %s, reads config %s, and has %s", i, set.Name, read, set.ConfigMap.Name)
		}
	}
	if gone := p.Proxies(Division{{"53/UDP", "80/TCP"}})[1]; gone.DaemonSet != nil || gone.ConfigMap != nil || gone.Name != all[1].Name {
		t.Errorf("a set without ports is %+v", gone)
	}
}
