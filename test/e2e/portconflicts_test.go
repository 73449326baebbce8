//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestPortConflictIsReportedAndEndsOnceThePortIsFree(t *testing.T) {
	t.Parallel()
	port, another := freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "first")
	newBackend(t, ns, "second")
	first := newService(t, ns, "first", nil, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, first, time.Minute, externalIPs()...)
	time.Sleep(time.Second) // Creation timestamps have a resolution of one second.
	second := newService(t, ns, "second", nil, servicePort(v1.ProtocolTCP, port))
	wantPortsError(t, second, metav1.ConditionTrue, fmt.Sprintf("%d/TCP", port), ns+"/first")
	wantWarning(t, second, "PortConflict", fmt.Sprintf("%d/TCP", port), ns+"/first")
	wantAddresses(t, second, time.Minute)
	wantNoProxies(t, second)
	rules, err := rulesOf(t.Context(), second)
	if err != nil || len(rules) > 0 {
		t.Errorf("the younger Service has firewall rules: %v, %v", rules, err)
	}
	wantOpen(t, getTCP, "first", port, externalIPs()...)

	editService(t, second, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, another)) })
	wantOpen(t, getTCP, "second", another, externalIPs()...)
	wantAddresses(t, second, time.Minute, externalIPs()...)
	wantPortErrors(t, second, fmt.Sprintf("%d: hostport-ccm.io/PortConflict", port), fmt.Sprintf("%d: none", another))

	before := proxies(t, second)
	watch := watchPublished(t, second, another)
	deleted := time.Now()
	deleteService(t, first)
	wantPortTakenOver(t, first, deleted, "second", port)
	wantPortsError(t, second, metav1.ConditionFalse)
	wantPortErrors(t, second)
	watch.wantAllKept(t, second, before)
	wantAddresses(t, second, time.Minute, externalIPs()...)
	wantUnchanged(t, second, before)
}

// wantPortsError waits until the condition LoadBalancerPortsError has a status and a message that
// contains all words.
func wantPortsError(t *testing.T, svc *v1.Service, status metav1.ConditionStatus, words ...string) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("condition LoadBalancerPortsError of Service %s is %s", svc.Name, status), func(ctx context.Context) error {
		live, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(live.Status.Conditions, v1.LoadBalancerPortsError)
		if c == nil || c.Status != status || !containsAll(c.Message, words) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// wantNoProxies checks that a Service has no proxy pods, whether Pending or not.
func wantNoProxies(t *testing.T, svc *v1.Service) {
	t.Helper()
	pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(t.Context(), ownedBy(svc))
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) > 0 {
		t.Errorf("Service %s has %d proxies", svc.Name, len(pods.Items))
	}
}

// wantPortTakenOver waits until a backend of another Service answers at a port of a deleted Service
// on every node, and logs how long that took.
func wantPortTakenOver(t *testing.T, holder *v1.Service, deleted time.Time, backend string, port int) {
	t.Helper()
	var all sync.WaitGroup
	for _, node := range cluster.Nodes(cluster.GCE) {
		all.Go(func() {
			var freed time.Time
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for ctx.Err() == nil {
				if freed.IsZero() && hasNoProxyOn(ctx, holder, node.Name) {
					freed = time.Now()
				}
				if name, err := quickly(getTCP)(ctx, node.ExternalIP, port); err == nil && strings.HasPrefix(name, backend+"-") {
					t.Logf("%s: the holder's proxy was gone %.2fs after the holder was deleted, and %.2fs later the port was served",
						node.Name, freed.Sub(deleted).Seconds(), time.Since(freed).Seconds())
					return
				}
			}
			t.Errorf("%s does not serve port %d of %s", node.Name, port, backend)
		})
	}
	all.Wait()
}

func quickly(get getter) getter {
	return func(ctx context.Context, address string, port int) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		return get(ctx, address, port)
	}
}

// hasNoProxyOn reports whether a Service has no proxy on a node, so that its host ports there are
// free.
func hasNoProxyOn(ctx context.Context, svc *v1.Service, node string) bool {
	pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, ownedBy(svc))
	return err == nil && !slices.ContainsFunc(pods.Items, func(pod v1.Pod) bool { return pod.Spec.NodeName == node })
}

// wantPortErrors waits until the first address in the status has these ports and errors, as "PORT:
// ERROR".
func wantPortErrors(t *testing.T, svc *v1.Service, want ...string) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the ports of Service %s are %v", svc.Name, want), func(ctx context.Context) error {
		live, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if err != nil || len(live.Status.LoadBalancer.Ingress) == 0 {
			return fmt.Errorf("there is no address (%v)", err)
		}
		var got []string
		for _, p := range live.Status.LoadBalancer.Ingress[0].Ports {
			reason := "none"
			if p.Error != nil {
				reason = *p.Error
			}
			got = append(got, fmt.Sprintf("%d: %s", p.Port, reason))
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v", got)
		}
		return nil
	})
}

func TestReservedPortsAndHostPortsOfPodsAreReported(t *testing.T) {
	t.Parallel()
	port, held := freePort(), freePort()
	ns := newNamespace(t)
	ssh := newService(t, ns, "ssh", nil, servicePort(v1.ProtocolTCP, 22))
	wantWarning(t, ssh, "PortConflict", "22/TCP", "reserved for SSH", "loadBalancer.reservedPorts")
	wantNoProxies(t, ssh)

	newBackend(t, ns, "dns")
	listenOnNode(t, ns, "node1", 53)
	dns := newService(t, ns, "dns", nil, servicePort(v1.ProtocolTCP, port), servicePort(v1.ProtocolUDP, 53), servicePort(v1.ProtocolTCP, 31000))
	wantPortsError(t, dns, metav1.ConditionTrue, "53/UDP is reserved for DNS", "31000/TCP is reserved for node ports", "loadBalancer.nodePortRange")
	wantAddresses(t, dns, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "dns", port, externalIPs()...)
	wantClosed(t, getUDP, 53, externalIPs()...)
	// A host port would take its port on the loopback addresses too, where resolvers of nodes listen.
	if name, err := askUDPWithRetries(t.Context(), from("node1"), "127.0.0.1", 53, askHostname); err != nil || name != "node1" {
		t.Errorf("%q answers on a loopback address of node1 in place of its own server (%v)", name, err)
	}
	wantRule(t, dns, fmt.Sprintf("tcp:%d", port))

	free := occupyHostPort(t, ns, held)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/node-selector": "kubernetes.io/hostname=node1"}
	}, servicePort(v1.ProtocolTCP, held))
	wantPortsError(t, svc, metav1.ConditionTrue, fmt.Sprintf("%d/TCP", held), ns+"/holder")
	wantNoProxies(t, svc)
	free()
	wantAddresses(t, svc, time.Minute, externalIPs()[:1]...)
	wantOpen(t, getTCP, "web", held, externalIPs()[0])
}

// occupyHostPort creates a pod, holder, with a host port on node1. The function that it returns
// deletes the pod.
func occupyHostPort(t *testing.T, ns string, port int) (free func()) {
	t.Helper()
	holder := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "holder"},
		Spec: v1.PodSpec{
			NodeName: "node1", TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{
				Name: "agnhost", Image: cluster.AgnhostImage, ImagePullPolicy: v1.PullNever, Args: []string{"pause"},
				Ports: []v1.ContainerPort{{ContainerPort: int32(port), HostPort: int32(port)}},
			}},
		},
	}
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), holder, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := client.CoreV1().Pods(ns).Delete(t.Context(), holder.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostPortOfAPodExcludesItsNodeOnly(t *testing.T) {
	t.Parallel()
	held, another := freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	free := occupyHostPort(t, ns, held)
	others := externalIPs("node1")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, freePort()), servicePort(v1.ProtocolTCP, held))
	wantAddresses(t, svc, time.Minute, others...)
	wantWarning(t, svc, "ProxyUnschedulable", "node1", ns+"/holder", fmt.Sprintf("%d/TCP", held))
	wantOpen(t, getTCP, "web", held, others...)
	// The change of a port replaces the proxies.
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports[0] = servicePort(v1.ProtocolTCP, another) })
	wantOpen(t, getTCP, "web", another, others...)
	free()
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", held, externalIPs()[0])
}

func TestPortConflictAnOlderServiceDoesNotTakeALivePort(t *testing.T) {
	t.Parallel()
	overDatapaths(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		newBackend(t, ns, "web")
		newBackend(t, ns, "older")
		older := newService(t, ns, "older", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP }, servicePort(v1.ProtocolTCP, port))
		time.Sleep(time.Second) // Creation timestamps have a resolution of one second.
		live := d.newService(t, ns, nil, servicePort(v1.ProtocolTCP, port))
		wantAddresses(t, live, time.Minute, d.addresses()...)
		wantOpen(t, getTCP, "web", port, d.addresses()...)

		var before []proxy
		if !d.direct {
			before = proxies(t, live)
		}
		watch := watchPublished(t, live, port)
		editService(t, older, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeLoadBalancer })
		wantPortsError(t, older, metav1.ConditionTrue, fmt.Sprintf("%d/TCP", port), ns+"/web")
		wantAddresses(t, older, time.Minute)
		wantNoProxies(t, older)
		watch.wantAllKept(t, live, before)
		wantOpen(t, getTCP, "web", port, d.addresses()...)

		deleteService(t, live)
		wantAddresses(t, older, time.Minute, externalIPs()...)
		wantOpen(t, getTCP, "older", port, externalIPs()...)
	})
}

func TestDatapathOfANodeWhoseAddressAnotherServiceHasAsExternalIP(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	newBackend(t, ns, "other")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	other := newService(t, ns, "other", func(o *v1.Service) {
		o.Spec.Type, o.Spec.ExternalIPs = v1.ServiceTypeClusterIP, []string{cluster.Nodes(cluster.GCE)[0].InternalIP}
	}, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs("node1")...)
	wantWarning(t, svc, "ProxyUnschedulable", "node1", fmt.Sprintf("%d/TCP", port), "spec.externalIPs", ns+"/other")
	wantOpen(t, getTCP, "web", port, externalIPs("node1")...)
	deleteService(t, other)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

func TestDatapathNodePortsOfOtherServicesAreTaken(t *testing.T) {
	defer changeCloudConfig(t, func(content string) string {
		return strings.Replace(content, "\nloadBalancer:\n", "\nloadBalancer:\n  nodePortRange: none\n", 1)
	})()
	// The first 86 of the range, which the API server gives to other Services last (KEP-3668).
	const before, after = 30001, 30002
	ns := newNamespace(t)
	nodePort := func(name string, port int) *v1.Service {
		newBackend(t, ns, name)
		return newService(t, ns, name, func(svc *v1.Service) {
			svc.Spec.Type, svc.Spec.Ports[0].NodePort = v1.ServiceTypeNodePort, int32(port)
		}, servicePort(v1.ProtocolTCP, 80))
	}
	newBackend(t, ns, "web")
	first := nodePort("first", before)
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, before), servicePort(v1.ProtocolTCP, after))
	wantPortsError(t, svc, metav1.ConditionTrue, fmt.Sprintf("%d/TCP", before), "spec.ports[].nodePort", ns+"/first")
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", after, externalIPs()...)
	wantClosed(t, getTCP, before, externalIPs()...)

	second := nodePort("second", after)
	wantPortsError(t, svc, metav1.ConditionTrue, fmt.Sprintf("%d/TCP", after), ns+"/second")
	wantAddresses(t, svc, time.Minute)
	deleteService(t, first)
	deleteService(t, second)
	wantPortsError(t, svc, metav1.ConditionFalse)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	for _, port := range []int{before, after} {
		wantOpen(t, getTCP, "web", port, externalIPs()...)
	}
}
