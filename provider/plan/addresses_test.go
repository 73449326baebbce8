package plan

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func TestTheFirewallAllowsTheAddressesOfTheNodesThatServe(t *testing.T) {
	at := func(node *v1.Node, addresses ...v1.NodeAddress) *v1.Node {
		node.Status.Addresses = addresses
		return node
	}
	external, internal := v1.NodeExternalIP, v1.NodeInternalIP
	edge := map[string]string{"pool": "edge"}
	nodes := []*v1.Node{
		at(node("a", edge), v1.NodeAddress{Type: external, Address: "203.0.113.1"}, v1.NodeAddress{Type: internal, Address: "10.0.0.1"},
			v1.NodeAddress{Type: internal, Address: "2001:db8::1"}, v1.NodeAddress{Type: v1.NodeHostName, Address: "10.0.0.99"}),
		at(node("b", edge), v1.NodeAddress{Type: internal, Address: "10.0.0.2"}, v1.NodeAddress{Type: external, Address: ""},
			v1.NodeAddress{Type: external, Address: "b.example.org"}, v1.NodeAddress{Type: internal, Address: "10.0.0.1"}),
		node("new", edge),
		at(node("other", nil), v1.NodeAddress{Type: internal, Address: "10.0.0.3"}),
		at(node("running", nil), v1.NodeAddress{Type: internal, Address: "10.0.0.4"}),
		at(node("draining", nil), v1.NodeAddress{Type: internal, Address: "10.0.0.5"}),
	}
	p, err := settings.Build(Input{
		Service: service(), Options: parsed(t, map[string]string{options.NodeSelector: "pool=edge"}), Cluster: snapshot.New(nodes, nil, nil, nil),
		Running: map[string]bool{"a": true, "running": true}, Draining: map[string]bool{"draining": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []netip.Addr
	for _, address := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.5", "203.0.113.1", "2001:db8::1"} {
		want = append(want, netip.MustParseAddr(address))
	}
	if diff := cmp.Diff(want, p.Firewall.Addresses, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestNodeSelectionsDifferByWhatSelectsNodes(t *testing.T) {
	seen := map[string]string{}
	for name, annotations := range map[string]map[string]string{
		"all nodes":        nil,
		"a selector":       {options.NodeSelector: "pool=edge"},
		"another selector": {options.NodeSelector: "pool=other"},
		"a toleration":     {options.Tolerations: `[{"key":"dedicated"}]`},
		"both":             {options.NodeSelector: "pool=edge", options.Tolerations: `[{"key":"dedicated"}]`},
	} {
		selection := nodeSelection(parsed(t, annotations))
		if selection != nodeSelection(parsed(t, annotations)) || (selection == "") != (annotations == nil) {
			t.Errorf("%s: %q", name, selection)
		}
		if other, taken := seen[selection]; taken {
			t.Errorf("%s and %s are both %q", name, other, selection)
		}
		seen[selection] = name
	}
}
