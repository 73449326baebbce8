package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func TestAPlanKeepsPortsThatTheServiceLosesAndGainsNone(t *testing.T) {
	svc := service(func(svc *v1.Service) {
		svc.Spec.Ports = []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80, NodePort: 30080}, {Name: "new", Protocol: v1.ProtocolTCP, Port: 8443}}
	})
	p := mustBuild(t, svc, options.Default(), node("a", nil))
	spec, mirror := p.Firewall, p.Mirror.DeepCopy()
	served := []snapshot.Port{{Protocol: v1.ProtocolUDP, Number: 53}, {Protocol: v1.ProtocolTCP, Number: 80}, {Protocol: v1.ProtocolTCP, Number: 443}}
	p.ServeOnly(sets.New(served...))
	if diff := cmp.Diff(served, snapshot.PortsOf(p.Service)); diff != "" {
		t.Errorf("served ports (-want +got):\n%s", diff)
	}
	mirror.Spec.Ports = []v1.ServicePort{
		{Name: "closing-udp-53", Protocol: v1.ProtocolUDP, Port: 53}, {Name: "http", Protocol: v1.ProtocolTCP, Port: 80}, {Name: "closing-tcp-443", Protocol: v1.ProtocolTCP, Port: 443},
	}
	if diff := cmp.Diff(mirror, p.Mirror); diff != "" {
		t.Errorf("mirror (-want +got):\n%s", diff)
	}
	if len(p.Firewall.Ports) != len(spec.Ports) || len(svc.Spec.Ports) != 2 {
		t.Errorf("the firewall allows %v, the Service has %v", p.Firewall.Ports, svc.Spec.Ports)
	}
}
