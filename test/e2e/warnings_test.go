//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestInvalidAnnotationIsReportedAndAffectsNoOtherService(t *testing.T) {
	t.Parallel()
	port, another := freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "good")
	newBackend(t, ns, "bad")
	good := newService(t, ns, "good", nil, servicePort(v1.ProtocolTCP, port))
	bad := newService(t, ns, "bad", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/node-selector": "a in (b"}
	}, servicePort(v1.ProtocolTCP, another))
	wantWarning(t, bad, "hostport-ccm.io/node-selector", "a in (b")
	wantAddresses(t, good, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "good", port, externalIPs()...)
	wantClosed(t, getTCP, another, externalIPs()...)

	editService(t, bad, func(s *v1.Service) { delete(s.Annotations, "hostport-ccm.io/node-selector") })
	wantAddresses(t, bad, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "bad", another, externalIPs()...)
}

func TestUnknownAnnotationIsReportedWithTheNearestKnownOne(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/max-node": "2"}
	}, servicePort(v1.ProtocolTCP, freePort()))
	wantWarning(t, svc, "hostport-ccm.io/max-node", "hostport-ccm.io/max-nodes")
}

func TestUnreachableComputeAPIIsReportedAndRecoveredFrom(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	stopSimulator(t)
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantWarning(t, svc, "firewall", "8080")
	startSimulator(t)
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

// stopSimulator makes the Compute API unreachable until the test ends; the firewall rules stay in
// force.
func stopSimulator(t *testing.T) {
	t.Helper()
	if err := gatewayFilter(t, "add table inet outage; add chain inet outage in { type filter hook input priority 0; }; add rule inet outage in iif vpc0 tcp dport 8080 reject with tcp reset"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { startSimulator(t) })
}

func startSimulator(t *testing.T) {
	t.Helper()
	if err := gatewayFilter(t, "add table inet outage; delete table inet outage"); err != nil {
		t.Error(err)
	}
}

func gatewayFilter(t *testing.T, rules string) error {
	_, err := sandbox.Exec(context.WithoutCancel(t.Context()), cluster.Gateway, "nft", rules)
	return err
}

func TestMissingProxyImageIsReported(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	healthy := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, healthy, time.Minute, externalIPs()...)
	// A rollout counts proxies that are not available yet as unavailable.
	eventually(t, time.Minute, "its proxies are available", func(ctx context.Context) error {
		return haveAvailable(ctx, healthy, len(externalIPs()))
	})

	// There is no registry at this address, so the pull fails at once.
	const missing = "127.0.0.1:5000/no-such-proxy:v1"
	restore := setProxyImage(t, missing)
	t.Cleanup(restore)
	newBackend(t, ns, "broken")
	svc := newService(t, ns, "broken", nil, servicePort(v1.ProtocolTCP, freePort()))
	wantWarning(t, svc, missing, "image")
	if got, err := addresses(t.Context(), svc); err != nil || len(got) > 0 {
		t.Errorf("addresses %v are published although no proxy runs (%v)", got, err)
	}
	// The rollout of the missing image to the healthy Service stops at its first
	// pod; the others continue to serve.
	serving, err := addresses(t.Context(), healthy)
	if err != nil || len(serving) < 2 {
		t.Errorf("Service %s has addresses %v (%v)", healthy.Name, serving, err)
	}
	wantOpen(t, getTCP, "web", port, serving...)
}
