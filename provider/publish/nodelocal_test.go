package publish

import (
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

func TestAMirrorDoesNotFollowHealthOrEndpoints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		status := Status(in)
		if served := filter(in.Nodes, func(node *v1.Node) bool { return in.Direct[node.Name] && NodeReady(node) }); len(served) > 0 {
			published := NodesIn(*status, in.Nodes)
			mirror := NodesIn(*NodeLocalStatus(in, status), in.Nodes)
			for name := range published {
				if in.Direct[name] && !mirror[name] {
					t.Fatalf("node %s is published and missing in the mirror", name)
				}
			}
		}
		in2 := in
		in2.Local, in2.Endpoints, in2.ServingEndpoints, in2.Previous = !in.Local, nil, nil, v1.LoadBalancerStatus{}
		if diff := cmp.Diff(NodeLocalStatus(in, status), NodeLocalStatus(in2, Status(in2))); diff != "" {
			t.Fatalf("the mirror changes with endpoints and what is published (-before +after):\n%s", diff)
		}
	})
}
