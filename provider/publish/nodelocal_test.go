package publish

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

func TestNodeLocalStatusHasAddressesOfThePublishedNodes(t *testing.T) {
	dual := node(1, addressed(internal("10.0.0.1"), external("203.0.113.1"), external("2001:DB8::1")))
	for name, c := range map[string]struct {
		published v1.LoadBalancerStatus
		nodes     []*v1.Node
		want      []string
	}{
		"nothing if nothing is published":        {published(), []*v1.Node{node(1)}, nil},
		"internal addresses for translated ones": {published("203.0.113.2", "203.0.113.10"), []*v1.Node{node(10), node(1), node(2)}, []string{"10.0.0.2", "10.0.0.10"}},
		"external IPv6 addresses as they are":    {published("203.0.113.1", "2001:db8::1"), []*v1.Node{dual}, []string{"10.0.0.1", "2001:db8::1"}},
		"only the published family":              {published("2001:db8::1"), []*v1.Node{dual}, []string{"2001:db8::1"}},
		"internal addresses as they are":         {published("10.0.0.1"), []*v1.Node{node(1)}, []string{"10.0.0.1"}},
		"only the requested nodes":               {published("203.0.113.1", "203.0.113.2"), []*v1.Node{node(2)}, []string{"10.0.0.2"}},
		"no address twice":                       {published("203.0.113.1", "10.0.0.1"), []*v1.Node{node(1)}, []string{"10.0.0.1"}},
		"every internal address of a node":       {published("203.0.113.1"), []*v1.Node{node(1, addressed(internal("10.1.0.1"), internal("10.0.0.1"), external("203.0.113.1")))}, []string{"10.0.0.1", "10.1.0.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := NodeLocalStatus(&c.published, c.nodes)
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

func TestAMirrorHasExactlyThePublishedNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		status := Status(in)
		all := slices.Concat(in.Nodes, in.Others)
		if diff := cmp.Diff(NodesIn(*status, all), NodesIn(*NodeLocalStatus(status, all), all)); diff != "" {
			t.Errorf("nodes differ (-published +mirror):\n%s", diff)
		}
	})
}
