package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// readyNode returns the Node of a machine as kwok makes it.
func readyNode(number int) *v1.Node {
	n := node(machine(number))
	n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
	return n
}

func publishing(svc *v1.Service, addresses ...string) *v1.Service {
	svc.Status = v1.ServiceStatus{}
	for _, ip := range addresses {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: ip, IPMode: new(v1.LoadBalancerIPModeVIP)})
	}
	return svc
}

func external(numbers ...int) []string {
	var list []string
	for _, n := range numbers {
		list = append(list, machine(n).NatIP)
	}
	return list
}

func TestWrongAddressesAreFound(t *testing.T) {
	for _, tt := range []struct {
		name              string
		proxied           bool
		addresses, before []string
		notReady          int
		want              string
	}{
		{name: "three nodes of three zones", addresses: external(0, 1, 2), notReady: -1},
		{name: "others of three zones", addresses: external(5, 4, 3), notReady: -1},
		{name: "none", notReady: -1, want: "0 addresses instead of 3"},
		{name: "one too few", addresses: external(0, 1), notReady: -1, want: "2 addresses instead of 3"},
		{name: "one too many", addresses: external(0, 1, 2, 3), notReady: -1, want: "4 addresses instead of 3"},
		{name: "two of the same zone", addresses: external(0, 1, 3), notReady: -1, want: "2 zones instead of 3"},
		{name: "one twice", addresses: external(0, 1, 1), notReady: -1, want: "twice"},
		{name: "an unknown one", addresses: append(external(0, 1), "192.0.2.1"), notReady: -1, want: "192.0.2.1"},
		{name: "one of a node that is not Ready", addresses: external(0, 1, 2), notReady: 2, want: machine(2).NatIP},
		{name: "one that has replaced another", addresses: external(0, 1, 5), before: external(0, 1, 2), notReady: 2},
		{name: "one that has replaced a good one", addresses: external(0, 4, 5), before: external(0, 1, 2), notReady: 2, want: machine(1).NatIP},
		{name: "all nodes with proxies", proxied: true, addresses: external(0, 1, 2, 3, 4, 5), notReady: -1},
		{name: "all Ready nodes with proxies", proxied: true, addresses: external(0, 1, 2, 3, 4), notReady: 5},
		{name: "three nodes with proxies", proxied: true, addresses: external(0, 1, 2), notReady: -1, want: "3 addresses instead of 6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := scene{Direct: 1, Nodes: 6}
			if tt.proxied {
				s = scene{Proxied: 1, Nodes: 6}
			}
			var nodes []*v1.Node
			for i := range s.Nodes {
				nodes = append(nodes, readyNode(i))
				if i == tt.notReady {
					nodes[i].Status.Conditions[0].Status = v1.ConditionFalse
				}
			}
			svc := publishing(s.objects()[0], tt.addresses...)
			wrong := strings.Join(s.wrongAddresses([]*v1.Service{svc}, nodes, published{keyOf(svc): tt.before}), "\n")
			if (wrong == "") != (tt.want == "") || !strings.Contains(wrong, tt.want) {
				t.Errorf("got %q, want %q", wrong, tt.want)
			}
		})
	}
}

func TestAMissingServiceAndAWrongModeAreFound(t *testing.T) {
	s := scene{Direct: 2, Nodes: 3}
	svc := publishing(s.objects()[0], external(0, 1, 2)...)
	svc.Status.LoadBalancer.Ingress[1].IPMode = nil
	wrong := s.wrongAddresses([]*v1.Service{svc}, []*v1.Node{readyNode(0), readyNode(1), readyNode(2)}, nil)
	if len(wrong) != 2 || !strings.Contains(wrong[0], "1 Services") || !strings.Contains(wrong[1], "ipMode") {
		t.Errorf("got %q", wrong)
	}
}

func TestMirrorsServeWhatIsPublished(t *testing.T) {
	var nodes []*v1.Node
	var internal []string
	for i := range 2*maxNodes + 1 {
		nodes, internal = append(nodes, readyNode(i)), append(internal, machine(i).NetworkIP)
	}
	svc := publishing(scene{Direct: 1}.objects()[0], external(0)...)
	for _, tt := range []struct {
		name      string
		addresses []string
		want      string
	}{
		{"spare nodes", internal[:2*maxNodes], ""},
		{"too many", internal, "has 7 nodes"},
		{"another node only", internal[1:2], machine(0).NatIP},
		{"no node", []string{internal[0], "192.0.2.1"}, "192.0.2.1"},
	} {
		got := wrongMirror(publishing(&v1.Service{}, tt.addresses...), svc, nodes)
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTheFirewallAllowsThePortsOfTheServices(t *testing.T) {
	services := scene{Direct: 3}.objects()
	rule := func(ports ...string) gcesim.Firewall {
		return gcesim.Firewall{Name: "r", Allowed: []gcesim.FirewallMatch{{IPProtocol: "tcp", Ports: ports}}}
	}
	for _, tt := range []struct {
		name  string
		rules []gcesim.Firewall
		ok    bool
	}{
		{"one rule with a range", []gcesim.Firewall{rule("11000-11002")}, true},
		{"two rules", []gcesim.Firewall{rule("11000"), rule("11001-11002")}, true},
		{"one port too few", []gcesim.Firewall{rule("11000-11001")}, false},
		{"one port too many", []gcesim.Firewall{rule("11000-11003")}, false},
	} {
		if wrong, err := wrongPorts(tt.rules, services); err != nil || (wrong == "") != tt.ok {
			t.Errorf("%s: %q, %v", tt.name, wrong, err)
		}
	}
	if _, err := wrongPorts([]gcesim.Firewall{rule("http")}, services); err == nil {
		t.Error("no error for a port that is no number")
	}
}

func TestServicesOfASceneHaveTheirOwnPortsAndNames(t *testing.T) {
	s := scene{Direct: 700, Proxied: 301}
	ports, names, perNamespaceCount := map[int32]bool{}, map[string]bool{}, map[string]int{}
	for _, svc := range s.objects() {
		ports[svc.Spec.Ports[0].Port], names[keyOf(svc).String()] = true, true
		perNamespaceCount[svc.Namespace]++
	}
	if len(ports) != 1001 || len(names) != 1001 {
		t.Errorf("%d ports, %d names", len(ports), len(names))
	}
	if want := "map[direct-0:300 direct-1:300 direct-2:100 proxied-0:300 proxied-1:1]"; fmt.Sprint(perNamespaceCount) != want {
		t.Errorf("namespaces %v, want %s", perNamespaceCount, want)
	}
}

func TestMachinesHaveTheirOwnAddresses(t *testing.T) {
	var all []string
	for i := range 5000 {
		in := machine(i)
		all = append(all, in.NetworkIP, in.NatIP, changedAddress(in))
	}
	slices.Sort(all)
	if unique := slices.Compact(all); len(unique) != 15000 {
		t.Errorf("%d different addresses", len(unique))
	}
}

func TestScenesAreParsed(t *testing.T) {
	for written, want := range map[string]scene{
		"direct:1000x500": {Direct: 1000, Nodes: 500},
		"proxies:200x50":  {Proxied: 200, Nodes: 50},
	} {
		if got, err := parseScene(written); err != nil || got != want {
			t.Errorf("%s: %v, %v", written, got, err)
		}
	}
	for _, written := range []string{"", "direct", "direct:0x50", "direct:10", "direct:10x3", "other:10x10", "direct:20000x10"} {
		if got, err := parseScene(written); err == nil {
			t.Errorf("%q: %v and no error", written, got)
		}
	}
}
