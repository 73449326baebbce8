//go:build e2e

package e2e

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

func TestFieldsThatPromiseMoreAreReported(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Spec.LoadBalancerIP, s.Spec.ExternalIPs = "192.0.2.1", []string{"192.0.2.2"}
	}, servicePort(v1.ProtocolTCP, port))
	wantWarning(t, svc, "FieldIgnored", "spec.loadBalancerIP", "192.0.2.1", "hostport-ccm.io/node-selector")
	wantWarning(t, svc, "StatusHidden", "spec.externalIPs", "192.0.2.2", "ExternalDNS")
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}
