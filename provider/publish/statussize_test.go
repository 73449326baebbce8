package publish

import (
	"encoding/json"
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func TestAStatusIsNeverLargerThanTheAPIServerAccepts(t *testing.T) {
	const nodes = 1000
	in := Input{Addresses: options.External, IPMode: modes}
	var conflicts []plan.Conflict
	var svc v1.Service
	for number := range int32(100) {
		port := v1.ServicePort{Protocol: v1.ProtocolTCP, Port: 10000 + number}
		svc.Spec.Ports = append(svc.Spec.Ports, port)
		conflicts = append(conflicts, plan.Conflict{Port: snapshot.PortOf(port), Reason: plan.PortConflict})
	}
	for n := range nodes {
		in.Nodes = append(in.Nodes, node(n, addressed(external(fmt.Sprintf("203.0.%d.%d", n/250, n%250)))))
	}
	for name, direct := range map[string]bool{"by proxies": false, "by kube-proxy": true} {
		in.Direct, in.Sets = map[string]bool{}, []ProxySet{setOf()}
		for n := range nodes {
			if direct {
				in.Direct[fmt.Sprint("n", n)] = true
			} else {
				in.Sets[0].Pods = append(in.Sets[0].Pods, pod(n, true))
			}
		}
		if in.IPMode.Direct = ""; direct {
			in.IPMode.Direct = v1.LoadBalancerIPModeVIP
		}
		in.Ports = Ports(&svc, conflicts)
		status := Status(in)
		data, err := json.Marshal(status)
		if err != nil || len(data) > 1<<20 || len(status.Ingress) != nodes {
			t.Errorf("%s: %d addresses, %d bytes, %v", name, len(status.Ingress), len(data), err)
		}
		if got := len(status.Ingress[0].Ports); got != 100 {
			t.Errorf("%s: the first address has %d ports", name, got)
		}
		for _, entry := range status.Ingress {
			if direct && len(entry.Ports) == 0 {
				t.Fatalf("%s: %s is not marked as served by kube-proxy", name, entry.IP)
			}
		}
	}
}
