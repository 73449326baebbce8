package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// held is which nodes Services have port 80 on, by the Service's name.
type held map[string][]string

func (h held) input() map[snapshot.Port]map[types.UID]map[string]bool {
	nodes := map[types.UID]map[string]bool{}
	for name, list := range h {
		nodes[types.UID(name)] = map[string]bool{}
		for _, node := range list {
			nodes[types.UID(name)][node] = true
		}
	}
	return map[snapshot.Port]map[types.UID]map[string]bool{tcp(80): nodes}
}

// nodesWithPort returns the nodes on which a Service gets port 80.
func nodesWithPort(t failer, svc *v1.Service, nodes []*v1.Node, others []*v1.Service, h held) []string {
	o, err := admit(svc)
	if err != nil {
		t.Fatal(err)
	}
	p, err := settings.Build(Input{Service: svc, Options: o, Cluster: snapshot.New(nodes, others, admit, others), Held: h.input()})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Conflicts) > 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(snapshot.Names(p.Nodes)))
}

func TestAPortStaysWithWhoHasIt(t *testing.T) {
	nodes := []*v1.Node{node("a1", map[string]string{"pool": "a"}), node("a2", map[string]string{"pool": "a"}), node("b1", map[string]string{"pool": "b"})}
	all := []string{"a1", "a2", "b1"}
	rejected := serviceOfAge("rejected", 9, "", 80)
	rejected.Annotations = map[string]string{options.MaxNodes: "many"}
	for name, c := range map[string]struct {
		services []*v1.Service
		held     held
		want     held
	}{
		"an older Service does not take it": {
			[]*v1.Service{serviceOfAge("old", 9, "", 80), serviceOfAge("young", 1, "", 80)},
			held{"young": all}, held{"young": all},
		},
		"an older Service on other nodes too does not take it": {
			[]*v1.Service{serviceOfAge("old", 9, "", 80), serviceOfAge("young", 1, "pool=a", 80)},
			held{"young": {"a1", "a2"}}, held{"young": {"a1", "a2"}},
		},
		"age decides where nobody has it": {
			[]*v1.Service{serviceOfAge("old", 9, "", 80), serviceOfAge("young", 1, "", 80)},
			nil, held{"old": all},
		},
		"an older incumbent that selects further nodes does not take these from another incumbent": {
			[]*v1.Service{serviceOfAge("old", 9, "", 80), serviceOfAge("young", 1, "pool=b", 80)},
			held{"old": {"a1", "a2"}, "young": {"b1"}}, held{"old": {"a1", "a2"}, "young": {"b1"}},
		},
		"a younger incumbent that selects further nodes gets those that are free": {
			[]*v1.Service{serviceOfAge("old", 9, "pool=b", 80), serviceOfAge("young", 1, "", 80)},
			held{"old": {"b1"}, "young": {"a1"}}, held{"old": {"b1"}, "young": {"a1", "a2"}},
		},
		"an incumbent that selects other nodes is none there": {
			[]*v1.Service{serviceOfAge("old", 9, "pool=b", 80), serviceOfAge("young", 1, "pool=b", 80)},
			held{"young": {"a1", "a2"}}, held{"old": {"b1"}},
		},
		"if two have it on a node, the older keeps it": {
			[]*v1.Service{serviceOfAge("old", 9, "", 80), serviceOfAge("young", 1, "", 80)},
			held{"old": all, "young": all}, held{"old": all},
		},
		"a rejected Service that has it keeps it": {
			[]*v1.Service{rejected, serviceOfAge("young", 1, "", 80), serviceOfAge("b", 2, "pool=b", 80)},
			held{"rejected": {"a1", "a2"}}, held{"b": {"b1"}},
		},
		"a rejected Service that does not have it claims nothing": {
			[]*v1.Service{rejected, serviceOfAge("young", 1, "", 80)},
			nil, held{"young": all},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := held{}
			for _, svc := range c.services {
				if svc == rejected {
					continue
				}
				if has := nodesWithPort(t, svc, nodes, c.services, c.held); has != nil {
					got[svc.Name] = has
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("who has the port (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever Services appear, an incumbent keeps the port on the nodes where it has it, and no two
// Services get it on the same node.
func TestIncumbentsKeepTheirNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*v1.Node
		for i := range rapid.IntRange(1, 5).Draw(t, "nodes") {
			nodes = append(nodes, node(fmt.Sprint("n", i), map[string]string{"i": fmt.Sprint(i)}))
		}
		selector := rapid.SampledFrom([]string{"", "i=0", "i!=0", "i in (0,1)", "i in (1,2)", "i=9"})
		var services []*v1.Service
		for i := range rapid.IntRange(1, 6).Draw(t, "services") {
			services = append(services, serviceOfAge(fmt.Sprint("s", i), rapid.IntRange(0, 2).Draw(t, "age"), selector.Draw(t, "selector"), 80))
		}
		h := held{}
		for _, n := range nodes {
			if holder := rapid.IntRange(-2, len(services)-1).Draw(t, "holder"); holder >= 0 {
				h[services[holder].Name] = append(h[services[holder].Name], n.Name)
			}
		}
		on := map[string]string{}
		for _, svc := range services {
			got := nodesWithPort(t, svc, nodes, services, h)
			for _, n := range got {
				if on[n] != "" {
					t.Fatalf("%s and %s get the port of %s", on[n], svc.Name, n)
				}
				on[n] = svc.Name
			}
			o, _ := admit(svc)
			for n := range snapshot.Names(snapshot.SelectNodes(nodes, o)) {
				if slices.Contains(h[svc.Name], n) && !slices.Contains(got, n) {
					t.Fatalf("%s loses the port of %s, has %v", svc.Name, n, got)
				}
			}
		}
	})
}

func TestNoProxyWaitsOnANodeWhereAnotherServiceHasThePort(t *testing.T) {
	nodes := []*v1.Node{node("a1", nil), node("b1", nil)}
	old, young := serviceOfAge("old", 9, "", 80), serviceOfAge("young", 1, "", 80)
	p, err := settings.Build(Input{
		Service: old, Options: options.Default(), Cluster: snapshot.New(nodes, []*v1.Service{old, young}, admit, nil),
		Held: held{"old": {"a1"}, "young": {"b1"}}.input(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ds := p.ProxySets(AssignPorts(snapshot.PortsOf(old), Assignment{}))[0].DaemonSet
	want := []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpNotIn, Values: []string{"b1"}}}
	for _, term := range ds.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if diff := cmp.Diff(want, term.MatchFields); diff != "" {
			t.Errorf("fields (-want +got):\n%s", diff)
		}
	}
	if len(p.Occupied) != 1 || !strings.HasPrefix(p.Occupied[0], "node b1 does not serve the Service, as Service default/young has port 80/TCP there: ") {
		t.Errorf("sentences: %q", p.Occupied)
	}
}

func TestAPortThatKubeProxyTakesForAnotherServiceIsNotServed(t *testing.T) {
	nodes := []*v1.Node{node("a1", nil), node("b1", nil)}
	other := serviceOfAge("other", 0, "", 443)
	occupants := func(nodes ...string) (list []snapshot.Occupant) {
		for _, node := range nodes {
			list = append(list, snapshot.Occupant{Service: other, Field: "spec.externalIPs", Node: node})
		}
		return list
	}
	for name, c := range map[string]struct {
		occupants []snapshot.Occupant
		pods      []*v1.Pod
		nodes     []string
		message   string
	}{
		"on all nodes, as a node port":      {occupants: occupants(""), message: "port 80/TCP is taken by spec.externalIPs of Service default/other"},
		"on each node":                      {occupants: occupants("a1", "b1"), message: "port 80/TCP is taken by spec.externalIPs of Service default/other"},
		"on one node":                       {occupants: occupants("a1"), nodes: []string{"b1"}, message: "node a1 does not serve the Service, as kube-proxy takes port 80/TCP there for spec.externalIPs of Service default/other"},
		"on one node, and a pod on another": {occupants: occupants("a1"), pods: []*v1.Pod{podOn("x", "b1")}, message: "port 80/TCP is taken by spec.externalIPs of Service default/other"},
	} {
		t.Run(name, func(t *testing.T) {
			svc := serviceOfAge("web", 5, "", 80)
			p, err := settings.Build(Input{
				Service: svc, Options: options.Default(), Cluster: snapshot.New(nodes, []*v1.Service{svc}, admit, nil),
				Held:        held{"web": {"a1", "b1"}}.input(),
				Occupants:   map[snapshot.Port][]snapshot.Occupant{tcp(80): c.occupants},
				ForeignPods: map[snapshot.Port][]*v1.Pod{tcp(80): c.pods},
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.nodes, slices.Sorted(maps.Keys(snapshot.Names(p.Nodes)))); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
			messages := p.Occupied
			for _, conflict := range p.Conflicts {
				messages = append(messages, conflict.Message)
			}
			if len(messages) != 1 || !strings.HasPrefix(messages[0], c.message) {
				t.Errorf("got %q, want %q", messages, c.message)
			}
		})
	}
}
