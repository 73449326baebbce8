//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

func TestAChangedPortIsServedByAllPublishedNodes(t *testing.T) {
	t.Parallel()
	svc, before := newWeb(t)
	published, err := addresses(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	after, proxiesBefore := freePort(), proxies(t, svc)
	watch := watchUnpublished(t, svc, after)
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = []v1.ServicePort{servicePort(v1.ProtocolTCP, after)} })
	wantOpen(t, getTCP, "web", after, externalIPs()...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	watch(t)
	waitClosed(t, getTCP, before, externalIPs()...)
	again, err := addresses(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again, published) { // An address that leaves for a while is appended when it comes back.
		unlessSlow(t, svc, proxiesBefore, fmt.Sprintf("the addresses were %v and are %v now: readers take the first for the load balancer's", published, again))
	}
}

// watchUnpublished observes a Service's addresses and which of them answer on a port. The function
// that it returns ends that, and checks that no node answered for longer than ten seconds without
// being published, while one was published that did not answer.
func watchUnpublished(t *testing.T, svc *v1.Service, port int) (end func(*testing.T)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	const limit = 10 * time.Second
	worst, done := make(chan time.Duration, 1), make(chan struct{})
	go func() {
		defer close(done)
		var longest time.Duration
		var since time.Time
		for ctx.Err() == nil {
			if published, err := addresses(ctx, svc); err != nil || !leavesOut(ctx, published, port) {
				since = time.Time{}
			} else if since.IsZero() {
				since = time.Now()
			} else {
				longest = max(longest, time.Since(since))
			}
			time.Sleep(200 * time.Millisecond) // Leave the machine to the proxies that are starting.
		}
		worst <- longest
	}()
	return func(t *testing.T) {
		t.Helper()
		cancel()
		<-done
		if longest := <-worst; longest > limit {
			t.Errorf("for %s, an address was published that did not answer, while another that did was not", longest.Round(time.Second))
		}
	}
}

// leavesOut reports whether an address is not published that answers, while one is that does not.
func leavesOut(ctx context.Context, published []string, port int) bool {
	var missing, dead bool
	for _, address := range externalIPs() {
		_, err := getTCP(ctx, address, port)
		switch listed := slices.Contains(published, address); {
		case err == nil && !listed:
			missing = true
		case err != nil && listed:
			dead = true
		}
	}
	return missing && dead
}

func TestTwoServicesSwapTheirPorts(t *testing.T) {
	t.Parallel()
	ns, ports := newNamespace(t), []int{freePort(), freePort()}
	var services []*v1.Service
	for i, name := range []string{"first", "second"} {
		newBackend(t, ns, name)
		svc := newService(t, ns, name, nil, servicePort(v1.ProtocolTCP, ports[i]))
		wantAddresses(t, svc, time.Minute, externalIPs()...)
		services = append(services, svc)
	}
	began := time.Now()
	for i, svc := range services {
		editService(t, svc, func(s *v1.Service) { s.Spec.Ports = []v1.ServicePort{servicePort(v1.ProtocolTCP, ports[1-i])} })
	}
	for i, svc := range services {
		wantOpen(t, getTCP, svc.Name, ports[1-i], externalIPs()...)
		wantAddresses(t, svc, time.Minute, externalIPs()...)
	}
	t.Logf("the ports were swapped after %s", time.Since(began).Round(100*time.Millisecond))
	for _, svc := range services {
		if err := hasWarning(t.Context(), svc, publish.ReasonUnschedulable); err == nil {
			t.Errorf("Service %s has a warning that its proxies cannot be scheduled, as they wait for each other", svc.Name)
		}
	}
}

func TestInternalPolicyLocalPublishesNodesWithAnEndpoint(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newPod(t, ns, "web", "node1")
	local := v1.ServiceInternalTrafficPolicyLocal
	svc := newService(t, ns, "web", func(s *v1.Service) { s.Spec.InternalTrafficPolicy = &local }, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()[0])
	wantOpen(t, getTCP, "web", port, externalIPs()[0])
	second := newPod(t, ns, "web", "node2")
	wantAddresses(t, svc, time.Minute, externalIPs()[:2]...)
	wantOpen(t, getTCP, "web", port, externalIPs()[:2]...)
	second.remove(t)
	wantAddresses(t, svc, time.Minute, externalIPs()[0])
}
