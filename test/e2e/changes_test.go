//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// The Service is at the limits of what the API server accepts: names of 63 characters, 100 ports.
// It has no node ports.
func TestServiceAtTheLimitsIsServedAndChangesWithoutReplacingItsProxies(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	newBackend(t, ns, "one")
	newBackend(t, ns, "two")
	var ports []v1.ServicePort
	for i := range 100 {
		ports = append(ports, servicePort(v1.ProtocolTCP, 20000+i))
		ports[i].Name = fmt.Sprintf("p%062d", i)
	}
	svc := newService(t, ns, "s"+strings.Repeat("x", 62), func(s *v1.Service) {
		s.Spec.Selector = map[string]string{"app": "one"}
		s.Spec.AllocateLoadBalancerNodePorts = ptr.To(false)
	}, ports...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "one", 20000, externalIPs()...)
	wantOpen(t, getTCP, "one", 20099, externalIPs()...)

	before := proxies(t, svc)
	editService(t, svc, func(s *v1.Service) { s.Spec.Selector = map[string]string{"app": "two"} })
	wantOpen(t, getTCP, "two", 20000, externalIPs()...)
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports[7].Name = "renamed" })
	editService(t, svc, func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP })
	editService(t, svc, withAnnotation(drainSeconds, "0"))
	wantOpen(t, getTCP, "two", 20099, externalIPs()...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	if diff := cmp.Diff(before, proxies(t, svc), cmp.AllowUnexported(proxy{})); diff != "" {
		t.Errorf("proxies were replaced or restarted (-before +after):\n%s", diff)
	}
}

func TestServiceLeavesTypeLoadBalancerAndComesBackWithOtherPorts(t *testing.T) {
	t.Parallel()
	first, second, third, fourth := freePort(), freePort(), freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, first))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	editService(t, svc, func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeClusterIP })
	eventually(t, time.Minute, "nothing is left of the load balancer", func(ctx context.Context) error {
		return hasNoOrphans(ctx, svc)
	})
	editService(t, svc, func(s *v1.Service) {
		s.Spec.Type = v1.ServiceTypeLoadBalancer
		s.Spec.Ports = []v1.ServicePort{servicePort(v1.ProtocolTCP, second), servicePort(v1.ProtocolUDP, third)}
	})
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", second, externalIPs()...)
	wantOpen(t, getUDP, "web", third, externalIPs()...)
	wantClosed(t, getTCP, first, externalIPs()...)
	// One port is removed, others get another number or protocol.
	editService(t, svc, func(s *v1.Service) {
		s.Spec.Ports = []v1.ServicePort{servicePort(v1.ProtocolTCP, third), servicePort(v1.ProtocolUDP, fourth)}
	})
	wantOpen(t, getTCP, "web", third, externalIPs()...)
	wantOpen(t, getUDP, "web", fourth, externalIPs()...)
	wantClosed(t, getTCP, second, externalIPs()...)
	wantRule(t, svc, fmt.Sprintf("tcp:%d", third), fmt.Sprintf("udp:%d", fourth))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
}
