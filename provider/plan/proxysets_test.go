package plan

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"pgregory.net/rapid"

	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func tcp(port int32) snapshot.Port { return snapshot.Port{Protocol: v1.ProtocolTCP, Number: port} }

func udp(port int32) snapshot.Port { return snapshot.Port{Protocol: v1.ProtocolUDP, Number: port} }

func TestAssignPortsKeepsPortsInTheirSets(t *testing.T) {
	type ports = []snapshot.Port
	for name, c := range map[string]struct {
		wanted     ports
		have, want Assignment
	}{
		"a new Service has one set":                                 {ports{tcp(80), tcp(443)}, Assignment{}, Assignment{{tcp(80), tcp(443)}}},
		"nothing changes":                                           {ports{tcp(80), tcp(443)}, Assignment{{tcp(80)}, {tcp(443)}}, Assignment{{tcp(80)}, {tcp(443)}}},
		"a new port makes a second set":                             {ports{tcp(80), tcp(443)}, Assignment{{tcp(80)}}, Assignment{{tcp(80)}, {tcp(443)}}},
		"a new protocol of the same port number makes a second set": {ports{tcp(80), udp(80)}, Assignment{{tcp(80)}}, Assignment{{tcp(80)}, {udp(80)}}},
		"another new port joins the second set":                     {ports{udp(53), tcp(80), tcp(443)}, Assignment{{tcp(80)}, {tcp(443)}}, Assignment{{tcp(80)}, {udp(53), tcp(443)}}},
		"a new port makes the first set if only the second exists":  {ports{tcp(80), tcp(443)}, Assignment{nil, {tcp(443)}}, Assignment{{tcp(80)}, {tcp(443)}}},
		"a port is removed from its set":                            {ports{tcp(80)}, Assignment{{tcp(80), tcp(443)}}, Assignment{{tcp(80)}}},
		"a set without ports is deleted":                            {ports{tcp(80)}, Assignment{{tcp(80)}, {tcp(443)}}, Assignment{{tcp(80)}}},
		"a renumbered port stays in its set":                        {ports{tcp(81)}, Assignment{{tcp(80)}}, Assignment{{tcp(81)}}},
		"the first set gets the new port if it loses one":           {ports{tcp(80), tcp(82), tcp(443)}, Assignment{{tcp(80), tcp(81)}, {tcp(443)}}, Assignment{{tcp(80), tcp(82)}, {tcp(443)}}},
		"the second set gets the new port if it loses one":          {ports{tcp(80), tcp(82), tcp(443)}, Assignment{{tcp(80)}, {tcp(81), tcp(443)}}, Assignment{{tcp(80)}, {tcp(82), tcp(443)}}},
		"the only remaining set gets the new port":                  {ports{tcp(81), tcp(8443)}, Assignment{{tcp(80)}, {tcp(81), tcp(443)}}, Assignment{nil, {tcp(81), tcp(8443)}}},
		"all ports are replaced":                                    {ports{tcp(1), tcp(2)}, Assignment{{tcp(80)}, {tcp(443)}}, Assignment{{tcp(1), tcp(2)}}},
		"a port that is in both sets stays in the first":            {ports{tcp(80), tcp(443)}, Assignment{{tcp(80)}, {tcp(80), tcp(443)}}, Assignment{{tcp(80)}, {tcp(443)}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, AssignPorts(c.wanted, c.have)); diff != "" {
				t.Errorf("assignment differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAssignPortsInvariants(t *testing.T) {
	someOf := func(t *rapid.T, what string) []snapshot.Port {
		picked := rapid.SliceOfDistinct(rapid.IntRange(1, 8), rapid.ID[int]).Draw(t, what)
		var ports []snapshot.Port
		for _, n := range picked {
			ports = append(ports, tcp(int32(n)))
		}
		slices.SortFunc(ports, snapshot.Port.Compare)
		return ports
	}
	rapid.Check(t, func(t *rapid.T) {
		wanted, have := someOf(t, "wanted"), Assignment{someOf(t, "first"), someOf(t, "second")}
		next := AssignPorts(wanted, have)
		all := slices.Concat(next[0], next[1])
		slices.SortFunc(all, snapshot.Port.Compare)
		if !slices.Equal(all, wanted) {
			t.Fatalf("%v has other ports than %v", next, wanted)
		}
		if again := AssignPorts(wanted, next); !again.Equal(next) {
			t.Fatalf("%v becomes %v", next, again)
		}
		moved := sets.New(next[0]...).Intersection(sets.New(have[1]...)).Difference(sets.New(have[0]...))
		moved = moved.Union(sets.New(next[1]...).Intersection(sets.New(have[0]...)))
		if len(moved) > 0 {
			t.Fatalf("%v moved from one set to the other: %v to %v", moved.UnsortedList(), have, next)
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

func TestProxySetsShareNothing(t *testing.T) {
	p := mustBuild(t, service(), options.Default())
	all := p.ProxySets(Assignment{{tcp(80)}, {udp(53)}})
	first, second := all[0].DaemonSet, all[1].DaemonSet
	if got := (Assignment{snapshot.HostPorts(first.Spec.Template.Spec), snapshot.HostPorts(second.Spec.Template.Spec)}); !got.Equal(Assignment{{tcp(80)}, {udp(53)}}) {
		t.Errorf("the sets have the ports %v", got)
	}
	pod := &v1.Pod{ObjectMeta: second.Spec.Template.ObjectMeta}
	if InSet(first, pod) || !InSet(second, pod) {
		t.Errorf("a pod of the second set, with labels %v, counts as one of the first", pod.Labels)
	}
	for i, set := range all {
		config, err := proxyconfig.Parse([]byte(set.ConfigMap.Data[proxyconfig.FileName]))
		if err != nil || len(config.Ports) != 1 {
			t.Errorf("the config of set %d has ports %v (%v)", i, config.Ports, err)
		}
		if read := set.DaemonSet.Spec.Template.Spec.Volumes[0].ConfigMap.Name; read != set.ConfigMap.Name || read != set.Name {
			t.Errorf("set %d has the name %s, mounts ConfigMap %s, and has ConfigMap %s", i, set.Name, read, set.ConfigMap.Name)
		}
	}
	if empty := p.ProxySets(Assignment{{udp(53), tcp(80)}})[1]; empty.DaemonSet != nil || empty.ConfigMap != nil || empty.Name != all[1].Name {
		t.Errorf("a set without ports is %+v", empty)
	}
}
