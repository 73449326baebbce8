//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// The Service has as many ports and source ranges as the default policy allows. No two ranges merge.
func TestAServiceWithManyPortsAndSourceRangesIsServed(t *testing.T) {
	t.Parallel()
	const first, last = 25000, 25099
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	var ports []v1.ServicePort
	for port := first; port <= last; port++ {
		ports = append(ports, servicePort(v1.ProtocolTCP, port))
	}
	svc := newService(t, ns, "web", func(svc *v1.Service) {
		onlyFrom(cluster.InternetIP)(svc)
		for i := range 999 {
			svc.Spec.LoadBalancerSourceRanges = append(svc.Spec.LoadBalancerSourceRanges, fmt.Sprintf("10.%d.%d.0/25", 200+i/256, i%256))
		}
	}, ports...)
	wantAddresses(t, svc, 2*time.Minute, externalIPs()...)
	for _, port := range []int{first, last} {
		wantOpen(t, getTCP, "web", port, externalIPs()...)
	}
	wantClosed(t, protocols[0].getFrom(cluster.Internet2), last, externalIPs()...)
	wantEvent(t, svc, "FirewallChanged", "tcp:25000-25099 from 10.200.0.0/25,", " and 996 more to ")
	for _, p := range proxies(t, svc) {
		t.Logf("proxy on %s: ready %s after its container's start (to the second)", p.node, p.readyAfter(t))
		if p.restarts != 0 {
			t.Errorf("proxy on %s was restarted %d times", p.node, p.restarts)
		}
	}
}
