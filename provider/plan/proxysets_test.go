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
		"another new port makes a third set":                        {ports{udp(53), tcp(80), tcp(443)}, Assignment{{tcp(80)}, {tcp(443)}}, Assignment{{tcp(80)}, {tcp(443)}, {udp(53)}}},
		"a further one joins the third set":                         {ports{udp(53), tcp(54), tcp(80), tcp(443)}, Assignment{{tcp(80)}, {tcp(443)}, {udp(53)}}, Assignment{{tcp(80)}, {tcp(443)}, {udp(53), tcp(54)}}},
		"a new port makes the first set if only the second exists":  {ports{tcp(80), tcp(443)}, Assignment{nil, {tcp(443)}}, Assignment{{tcp(80)}, {tcp(443)}}},
		"a port is removed from its set":                            {ports{tcp(80)}, Assignment{{tcp(80), tcp(443)}}, Assignment{{tcp(80)}}},
		"a set without ports is deleted":                            {ports{tcp(80)}, Assignment{{tcp(80)}, {tcp(443)}}, Assignment{{tcp(80)}}},
		"a changed port makes another set":                          {ports{tcp(81)}, Assignment{{tcp(80)}}, Assignment{nil, {tcp(81)}}},
		"one changed port of several makes another set":             {ports{tcp(80), tcp(82), tcp(443)}, Assignment{{tcp(80), tcp(81)}, {tcp(443)}}, Assignment{{tcp(80)}, {tcp(443)}, {tcp(82)}}},
		"with three sets, one that loses all gets the new port":     {ports{tcp(80), tcp(82), tcp(443)}, Assignment{{tcp(80), tcp(81)}, {tcp(443)}, {tcp(83)}}, Assignment{{tcp(80)}, {tcp(443)}, {tcp(82)}}},
		"else one that loses some":                                  {ports{tcp(1), tcp(80), tcp(82), tcp(443)}, Assignment{{tcp(80), tcp(81)}, {tcp(443)}, {tcp(82)}}, Assignment{{tcp(1), tcp(80)}, {tcp(443)}, {tcp(82)}}},
		"a set that shrinks does not get the new port":              {ports{tcp(81), tcp(8443)}, Assignment{{tcp(80)}, {tcp(81), tcp(443)}}, Assignment{nil, {tcp(81)}, {tcp(8443)}}},
		"all ports are replaced":                                    {ports{tcp(1), tcp(2)}, Assignment{{tcp(80)}, {tcp(443)}}, Assignment{nil, nil, {tcp(1), tcp(2)}}},
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
		wanted, have := someOf(t, "wanted"), Assignment{someOf(t, "first"), someOf(t, "second"), someOf(t, "third")}
		next := AssignPorts(wanted, have)
		all := slices.Concat(next[:]...)
		slices.SortFunc(all, snapshot.Port.Compare)
		if !slices.Equal(all, wanted) {
			t.Fatalf("%v has other ports than %v", next, wanted)
		}
		if again := AssignPorts(wanted, next); !again.Equal(next) {
			t.Fatalf("%v becomes %v", next, again)
		}
		unchanged := 0
		for i := range next {
			gained := sets.New(next[i]...).Difference(sets.New(have[i]...))
			if moved := gained.Intersection(sets.New(slices.Concat(have[:]...)...)); len(moved) > 0 {
				t.Fatalf("%v moved from one set to another: %v to %v", moved.UnsortedList(), have, next)
			}
			if slices.Equal(next[i], have[i]) && len(have[i]) > 0 {
				unchanged++
			}
			keeps := len(have[i]) > 0 && len(gained) < len(next[i])
			if empty := slices.ContainsFunc(have[:], func(ports []snapshot.Port) bool { return len(ports) == 0 }); keeps && len(gained) > 0 && empty {
				t.Fatalf("set %d gains a port although there is an empty set: %v to %v", i, have, next)
			}
		}
		if subset := sets.New(wanted...).HasAll(slices.Concat(have[:]...)...); subset && unchanged < len(have)-1 && len(slices.Concat(have[:]...)) == len(sets.New(slices.Concat(have[:]...)...)) &&
			len(have[0]) > 0 && len(have[1]) > 0 && len(have[2]) > 0 {
			t.Fatalf("more than one set is replaced although no port is lost: %v to %v", have, next)
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
	if pods := []*v1.Pod{pod}; len(PodsIn(first, pods)) > 0 || len(PodsIn(second, pods)) == 0 {
		t.Errorf("a pod of the second set, with labels %v, counts as one of the first", pod.Labels)
	}
	for i, set := range all[:2] {
		config, err := proxyconfig.Parse([]byte(set.ConfigMap.Data[proxyconfig.FileName]))
		if err != nil || len(config.Ports) != 1 {
			t.Errorf("the config of set %d has ports %v (%v)", i, config.Ports, err)
		}
		if read := set.DaemonSet.Spec.Template.Spec.Volumes[0].ConfigMap.Name; read != set.ConfigMap.Name || read != set.Name {
			t.Errorf("set %d has the name %s, mounts ConfigMap %s, and has ConfigMap %s", i, set.Name, read, set.ConfigMap.Name)
		}
	}
	if empty := all[2]; empty.DaemonSet != nil || empty.ConfigMap != nil || empty.Name == all[1].Name {
		t.Errorf("a set without ports is %+v", empty)
	}
}
