package publish

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestNodeLocalStatusHasTheServedNodes(t *testing.T) {
	dual := node(1, addressed(internal("10.0.0.1"), external("203.0.113.1"), external("2001:DB8::1")))
	for name, c := range map[string]struct {
		in        Input
		published []string
		want      []string
	}{
		"internal addresses for translated ones": {Input{Nodes: []*v1.Node{node(10), node(2)}}, []string{"203.0.113.2", "203.0.113.10"}, []string{"10.0.0.2", "10.0.0.10"}},
		"planned nodes that are not published":   {Input{Nodes: []*v1.Node{node(1), node(2, notReady)}}, nil, []string{"10.0.0.1", "10.0.0.2"}},
		"another node while it is published":     {Input{Nodes: []*v1.Node{node(1)}, Others: []*v1.Node{node(2), node(3)}}, []string{"203.0.113.2"}, []string{"10.0.0.1", "10.0.0.2"}},
		"external IPv6 addresses as they are":    {Input{Nodes: []*v1.Node{dual}}, nil, []string{"10.0.0.1", "2001:db8::1"}},
		"only the Service's families":            {Input{Nodes: []*v1.Node{dual}, Families: []v1.IPFamily{v1.IPv6Protocol}}, nil, []string{"2001:db8::1"}},
		"internal addresses as they are":         {Input{Nodes: []*v1.Node{node(1)}, Addresses: options.Internal}, nil, []string{"10.0.0.1"}},
		"no node that kube-proxy is not to serve": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Direct: map[string]bool{"n2": true}}, []string{"203.0.113.1", "203.0.113.2"}, []string{"10.0.0.2"},
		},
		"every internal address of a node": {
			Input{Nodes: []*v1.Node{node(1, addressed(internal("10.1.0.1"), internal("10.0.0.1"), external("203.0.113.1")))}}, nil, []string{"10.0.0.1", "10.1.0.1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.in.Direct == nil {
				c.in.Direct = map[string]bool{"n1": true, "n2": true, "n3": true, "n10": true}
			}
			if c.in.Addresses == "" {
				c.in.Addresses = options.External
			}
			status := published(c.published...)
			got := NodeLocalStatus(c.in, &status)
			if diff := cmp.Diff(c.want, ips(got)); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
			for _, entry := range got.Ingress {
				if *entry.IPMode != v1.LoadBalancerIPModeVIP {
					t.Errorf("%s has mode %s", entry.IP, *entry.IPMode)
				}
			}
		})
	}
}

func TestAMirrorHasThePublishedNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		status := Status(in)
		mirror := NodesIn(*NodeLocalStatus(in, status), in.Nodes)
		for name := range NodesIn(*status, in.Nodes) {
			if in.Direct[name] && !mirror[name] {
				t.Fatalf("node %s is published and missing in the mirror", name)
			}
		}
	})
}

func TestAMirrorDoesNotFollowHealthOrEndpoints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		in.MaxNodes = 0
		status := Status(in)
		in2 := in
		in2.Local, in2.Endpoints, in2.ServingEndpoints, in2.Previous = !in.Local, nil, nil, v1.LoadBalancerStatus{}
		if diff := cmp.Diff(NodeLocalStatus(in, status), NodeLocalStatus(in2, Status(in2))); diff != "" {
			t.Fatalf("the mirror changes with endpoints and what is published (-before +after):\n%s", diff)
		}
	})
}

// direct returns the input of a Service that kube-proxy serves, with n nodes in three zones.
func direct(n, maxNodes int) Input {
	in := Input{Addresses: options.External, MaxNodes: maxNodes, IPMode: modes, Now: now, Direct: map[string]bool{}}
	for i := range n {
		in.Nodes = append(in.Nodes, node(i+1, inZone(string(rune('a'+i%3)))))
		in.Direct[in.Nodes[i].Name] = true
	}
	return in
}

// settled returns the input as it is after its own status and mirror were written.
func settled(in Input) Input {
	status := Status(in)
	in.Served = NodesIn(*NodeLocalStatus(in, status), in.Nodes)
	in.Previous, in.index = *status, nil
	return in
}

func TestAMirrorWithMaxNodesHasTwiceAsMany(t *testing.T) {
	in := direct(9, 3)
	for _, step := range []struct {
		name      string
		change    func()
		published []string
		mirror    []string
	}{
		{"nodes of all zones at first", func() {}, []string{"n1", "n2", "n3"}, []string{"n1", "n2", "n3", "n4", "n5", "n6"}},
		{"a spare node for one that fails", func() { notReady(in.Nodes[0]) }, []string{"n2", "n3", "n4"}, []string{"n1", "n2", "n3", "n4", "n5", "n6"}},
		{"no change when it returns", func() { in.Nodes[0] = node(1, inZone("a")) }, []string{"n2", "n3", "n4"}, []string{"n1", "n2", "n3", "n4", "n5", "n6"}},
		{"another one for a spare node that is deleted", func() { in.Nodes = slices.Delete(in.Nodes, 4, 5) }, []string{"n2", "n3", "n4"}, []string{"n1", "n2", "n3", "n4", "n6", "n8"}},
		{"with policy Local, what has just left the status", func() { in.Local, in.Endpoints = true, map[string]bool{"n9": true} }, []string{"n9"}, []string{"n1", "n2", "n3", "n4", "n8", "n9"}},
	} {
		step.change()
		in = settled(in)
		if got := slices.Sorted(maps.Keys(NodesIn(in.Previous, in.Nodes))); !slices.Equal(got, step.published) {
			t.Errorf("%s: published %v, want %v", step.name, got, step.published)
		}
		if got := slices.Sorted(maps.Keys(in.Served)); !slices.Equal(got, step.mirror) {
			t.Errorf("%s: the mirror has %v, want %v", step.name, got, step.mirror)
		}
	}
}

func TestAMirrorWithMaxNodesIsNotWrittenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := direct(rapid.IntRange(1, 12).Draw(t, "nodes"), rapid.IntRange(1, 4).Draw(t, "max"))
		for _, n := range in.Nodes {
			if rapid.IntRange(0, 2).Draw(t, "down") == 0 {
				notReady(n)
			}
			if rapid.Bool().Draw(t, "published") {
				in.Previous.Ingress = append(in.Previous.Ingress, v1.LoadBalancerIngress{IP: n.Status.Addresses[1].Address})
			}
		}
		in = settled(settled(in)) // The first may remove what has left the status.
		if limit := max(2*in.MaxNodes, len(in.Previous.Ingress)); len(in.Served) > limit {
			t.Fatalf("the mirror has %d nodes, want at most %d", len(in.Served), limit)
		}
		if diff := cmp.Diff(in.Served, settled(in).Served); diff != "" {
			t.Fatalf("the mirror changes without a cause (-before +after):\n%s", diff)
		}
	})
}
