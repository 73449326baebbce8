package snapshot

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestOccupantsHavePortsOfNodes(t *testing.T) {
	n1 := node("n1", nil)
	n1.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeHostName, Address: "n1"}, {Type: v1.NodeInternalIP, Address: "10.0.0.1"}, {Type: v1.NodeExternalIP, Address: "203.0.113.1"}}
	withStatus := func(svc *v1.Service, mode v1.LoadBalancerIPMode) {
		svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "203.0.113.1", IPMode: &mode}}
	}
	for name, c := range map[string]struct {
		change func(*v1.Service)
		want   []string
	}{
		"no Service without node ports": {func(*v1.Service) {}, nil},
		"a node port, on all nodes":     {func(svc *v1.Service) { svc.Spec.Ports[0].NodePort = 31000 }, []string{"31000/UDP spec.ports[].nodePort of web on "}},
		"a health check port":           {func(svc *v1.Service) { svc.Spec.HealthCheckNodePort = 31001 }, []string{"31001/TCP spec.healthCheckNodePort of web on "}},
		"an external address of a node": {func(svc *v1.Service) { svc.Spec.ExternalIPs = []string{"203.0.113.1", "198.51.100.1"} }, []string{"53/UDP spec.externalIPs of web on n1"}},
		"an internal address, as IPv6":  {func(svc *v1.Service) { svc.Spec.ExternalIPs = []string{"::ffff:10.0.0.1"} }, []string{"53/UDP spec.externalIPs of web on n1"}},
		"a published address of a node": {func(svc *v1.Service) { withStatus(svc, v1.LoadBalancerIPModeVIP) }, []string{"53/UDP status.loadBalancer.ingress of web on n1"}},
		"no address with ipMode Proxy":  {func(svc *v1.Service) { withStatus(svc, v1.LoadBalancerIPModeProxy) }, nil},
		"no status of a claimant":       {func(svc *v1.Service) { withStatus(svc, v1.LoadBalancerIPModeVIP); svc.UID = "claimant" }, nil},
		"no status of a mirror": {func(svc *v1.Service) {
			withStatus(svc, v1.LoadBalancerIPModeVIP)
			svc.Spec.LoadBalancerClass = ptr.To("hostport-ccm.io/mirror")
		}, nil},
		"no status that we clean up": {func(svc *v1.Service) {
			withStatus(svc, v1.LoadBalancerIPModeVIP)
			svc.Finalizers = []string{"hostport-ccm.io/cleanup"}
		}, nil},
		"no headless Service": {func(svc *v1.Service) {
			svc.Spec.ClusterIP = v1.ClusterIPNone
			svc.Spec.ExternalIPs = []string{"203.0.113.1"}
		}, nil},
		"no address that is not an address": {func(svc *v1.Service) { svc.Spec.ExternalIPs = []string{"n1"} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			svc := service("web", time.Hour, nil, v1.ServicePort{Protocol: v1.ProtocolUDP, Port: 53})
			c.change(svc)
			cluster := New([]*v1.Node{n1}, []*v1.Service{service("claimant", time.Hour, nil)}, admit, []*v1.Service{svc})
			var got []string
			for _, port := range slices.Concat(slices.Collect(maps.Keys(cluster.Services.everywhere)), slices.Collect(maps.Keys(cluster.occupants))) {
				for _, o := range cluster.Occupants(port) {
					got = append(got, fmt.Sprintf("%s %s of %s on %s", port, o.Field, o.Service.Name, o.Node))
				}
				if !slices.Contains(OccupiedPorts(svc), port) {
					t.Errorf("OccupiedPorts lacks %s", port)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("occupants (-want +got):\n%s", diff)
			}
		})
	}
}
