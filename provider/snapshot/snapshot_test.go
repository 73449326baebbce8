package snapshot

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func service(name string, age time.Duration, annotations map[string]string, ports ...v1.ServicePort) *v1.Service {
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(name), Annotations: annotations, CreationTimestamp: metav1.Time{Time: time.Unix(1_000_000, 0).Add(-age)},
		},
		Spec: v1.ServiceSpec{Ports: ports},
	}
}

func admit(svc *v1.Service) (options.Options, error) {
	return options.Parse(svc.Annotations, options.Default())
}

func TestClaimsAreInOrderOfAgeWithTheSelectedNodes(t *testing.T) {
	http, dns := v1.ServicePort{Port: 80}, v1.ServicePort{Protocol: v1.ProtocolUDP, Port: 80}
	edge := map[string]string{options.NodeSelector: "pool=edge"}
	c := New(
		[]*v1.Node{node("n2", map[string]string{"pool": "edge"}), node("n1", nil)},
		[]*v1.Service{
			service("young", time.Minute, nil, http),
			service("old", time.Hour, edge, http, dns, http),
			service("b", time.Second, edge),
			service("a-twin", time.Minute, edge, http),
			service("invalid", 2*time.Hour, map[string]string{options.NodeSelector: "pool=none", options.MaxNodes: "many"}, dns),
		},
		admit, nil,
	)
	describe := func(claims []Claim) (list []string) {
		for _, claim := range claims {
			list = append(list, fmt.Sprint(claim.Service.Name, " ", claim.Nodes, map[bool]string{true: " rejected"}[claim.Rejected]))
		}
		return list
	}
	both, one := "map[n1:true n2:true]", "map[n2:true]"
	if diff := cmp.Diff([]string{"old " + one, "a-twin " + one, "young " + both}, describe(c.Claims(Port{v1.ProtocolTCP, 80}))); diff != "" {
		t.Errorf("claims to port 80/TCP (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"invalid map[] rejected", "old " + one}, describe(c.Claims(Port{v1.ProtocolUDP, 80}))); diff != "" {
		t.Errorf("claims to port 80/UDP (-want +got):\n%s", diff)
	}
	if claims := c.Claims(Port{v1.ProtocolTCP, 443}); len(claims) > 0 {
		t.Errorf("claims to a port that no Service has: %v", claims)
	}
	if c.Nodes[0].Name != "n1" || c.Nodes[1].Name != "n2" {
		t.Errorf("the nodes are not sorted: %s, %s", c.Nodes[0].Name, c.Nodes[1].Name)
	}
}

func TestPortsAreSortedAndListedOnce(t *testing.T) {
	svc := service("web", 0, nil, v1.ServicePort{Port: 443}, v1.ServicePort{Port: 80, Protocol: v1.ProtocolUDP}, v1.ServicePort{Port: 80, Name: "again"}, v1.ServicePort{Port: 80})
	want := []Port{{v1.ProtocolTCP, 80}, {v1.ProtocolUDP, 80}, {v1.ProtocolTCP, 443}}
	if diff := cmp.Diff(want, PortsOf(svc)); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if svc.Spec.Ports[0].Port != 443 || svc.Spec.Ports[0].Protocol != "" {
		t.Error("the Service was changed")
	}
}

func TestSnapshotsOfTheSameNodesShareSelections(t *testing.T) {
	o := options.Options{NodeSelector: labels.Everything()}
	nodes := []*v1.Node{node("b", nil), node("a", nil)}
	first := IndexServices(nil, nil, nil).On(nodes)
	same := IndexServices(nil, nil, nil).OnSince(first, []*v1.Node{nodes[1], nodes[0]})
	if first.Select(o) != same.Select(o) {
		t.Error("the same nodes are selected again")
	}
	for name, changed := range map[string][]*v1.Node{"one more": append(slices.Clone(nodes), node("c", nil)), "one less": nodes[:1], "one replaced": {nodes[0], node("a", nil)}} {
		other := IndexServices(nil, nil, nil).OnSince(first, changed)
		if got, want := other.Select(o).Names, Names(changed); !maps.Equal(got, want) {
			t.Errorf("%s: selected %v, want %v", name, got, want)
		}
		if other.Select(o) == first.Select(o) {
			t.Errorf("%s: the selection of other nodes is used", name)
		}
	}
}
