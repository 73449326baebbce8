//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestServiceOpensItsPortOnEveryNodeAndClosesItAgain(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	wantClosed(t, getTCP, 80, externalIPs()...)

	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 80, externalIPs()...)
	wantClosed(t, getTCP, 81, externalIPs()...)
	wantClosed(t, getTCP, backendPort, externalIPs()...)
	wantRule(t, svc, "tcp:80")

	deleteService(t, svc)
	wantNothingLeft(t, svc)
	wantClosed(t, getTCP, 80, externalIPs()...)
}

// wantRule waits until a Service has a single firewall rule, which allows exactly this to the nodes
// only.
func wantRule(t *testing.T, svc *v1.Service, allowed ...string) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the firewall rule of Service %s allows %v", svc.Name, allowed), func(ctx context.Context) error {
		rules, err := rulesOf(ctx, svc)
		if err != nil {
			return err
		}
		if len(rules) != 1 {
			return fmt.Errorf("there are %d rules", len(rules))
		}
		var got []string
		for _, match := range rules[0].Allowed {
			got = append(got, match.IPProtocol+":"+strings.Join(match.Ports, ","))
		}
		if fmt.Sprint(got) != fmt.Sprint(allowed) || fmt.Sprint(rules[0].TargetTags) != fmt.Sprint([]string{cluster.NodeTag}) {
			return fmt.Errorf("it allows %v to %v", got, rules[0].TargetTags)
		}
		return nil
	})
}

func TestPortsAreAddedToALiveServiceAndEndNoConnection(t *testing.T) {
	t.Parallel()
	first, second, third := freePort(), freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, first))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", first, externalIPs()...)

	before, live := proxies(t, svc), map[string]liveConns{}
	for _, address := range externalIPs() {
		live[address] = openLiveConns(t, 20, address, first)
	}
	wantClosed(t, getTCP, second, externalIPs()...)
	watch := watchPublished(t, svc, first)
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, second)) })
	wantOpen(t, getTCP, "web", second, externalIPs()...)
	watch.wantAllKept(t, svc, before)

	wantClosed(t, getUDP, third, externalIPs()...)
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolUDP, third)) })
	wantOpen(t, getUDP, "web", third, externalIPs()...)
	wantOpen(t, getTCP, "web", first, externalIPs()...)
	wantClosed(t, getTCP, third, externalIPs()...)
	wantRule(t, svc, fmt.Sprintf("tcp:%d,%d", first, second), fmt.Sprintf("udp:%d", third))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantUnchanged(t, svc, before)
	wantAllAlive(t, live)

	// The added ports are removed; the first one is not affected.
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = s.Spec.Ports[:1] })
	wantProxies(t, svc, len(before))
	wantRule(t, svc, fmt.Sprintf("tcp:%d", first))
	wantClosed(t, getTCP, second, externalIPs()...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantUnchanged(t, svc, before)
	wantAllAlive(t, live)
}

func TestTwoServicesInTwoNamespacesAreServedSideBySide(t *testing.T) {
	t.Parallel()
	port, another := freePort(), freePort()
	one, two := newNamespace(t), newNamespace(t)
	newBackend(t, one, "first")
	newBackend(t, two, "second")
	first := newService(t, one, "first", nil, servicePort(v1.ProtocolTCP, port))
	second := newService(t, two, "second", nil, servicePort(v1.ProtocolTCP, another))
	wantAddresses(t, first, time.Minute, externalIPs()...)
	wantAddresses(t, second, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "first", port, externalIPs()...)
	wantOpen(t, getTCP, "second", another, externalIPs()...)

	deleteService(t, first)
	wantNothingLeft(t, first)
	wantClosed(t, getTCP, port, externalIPs()...)
	wantOpen(t, getTCP, "second", another, externalIPs()...)
}

func TestServiceThatLeavesTypeLoadBalancerIsClosed(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	editService(t, svc, func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeClusterIP })
	eventually(t, time.Minute, "nothing is left of the load balancer", func(ctx context.Context) error {
		return hasNoOrphans(ctx, svc)
	})
	wantClosed(t, getTCP, port, externalIPs()...)
	wantAddresses(t, svc, time.Minute)
	eventually(t, time.Minute, "no finalizer stays on a Service that is no load balancer any more", func(ctx context.Context) error {
		return hasFinalizers(ctx, svc, nil)
	})
}

func TestClientsOutsideTheSourceRangesAreRefused(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} }, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantClosed(t, getTCP, port, externalIPs()...)
	editService(t, svc, func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{cluster.InternetIP + "/32"} })
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

func TestAClusterIPIsNotGivenAwayWhileProxiesDrain(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", withAnnotation(drainSeconds, "20"), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	next := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "next"},
		Spec:       v1.ServiceSpec{ClusterIP: svc.Spec.ClusterIP, Ports: []v1.ServicePort{servicePort(v1.ProtocolTCP, port)}},
	}
	services, pods := client.CoreV1().Services(ns), client.CoreV1().Pods(cluster.ProductNamespace)

	deleteService(t, svc)
	wantAddresses(t, svc, time.Minute)
	waitClosed(t, getTCP, port, externalIPs()...)
	refused := 0
	eventually(t, 2*time.Minute, "another Service gets the cluster IP", func(ctx context.Context) error {
		_, err := services.Create(ctx, next, metav1.CreateOptions{})
		if err != nil {
			refused++
			return err
		}
		list, err := pods.List(ctx, ownedBy(svc))
		if err != nil {
			return err
		}
		for _, pod := range list.Items {
			if pod.Status.Phase == v1.PodRunning || pod.Status.Phase == v1.PodPending {
				t.Fatalf("it has it while proxy %s forwards to it", pod.Name)
			}
		}
		return nil
	})
	if refused == 0 {
		t.Error("the Service did not wait for its proxies")
	}
}
