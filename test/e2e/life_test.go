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
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// wantPortsError waits until the condition LoadBalancerPortsError has a status and a message that contains
// all words.
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

// wantNoProxies checks that there are no proxy pods of a Service, Pending or
// not.
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

func TestServiceWhosePortIsTakenIsToldAndServedOnceItIsFree(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "first")
	newBackend(t, ns, "second")
	first := newService(t, ns, "first", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, first, time.Minute, externalIPs()...)
	time.Sleep(time.Second) // Creation timestamps have seconds.
	second := newService(t, ns, "second", nil, servicePort(v1.ProtocolTCP, 80))
	wantPortsError(t, second, metav1.ConditionTrue, "80/TCP", ns+"/first")
	wantWarning(t, second, "PortConflict", "80/TCP", ns+"/first")
	wantAddresses(t, second, time.Minute)
	wantNoProxies(t, second)
	rules, err := rulesOf(t.Context(), second)
	if err != nil || len(rules) > 0 {
		t.Errorf("firewall rules of the loser: %v, %v", rules, err)
	}
	wantOpen(t, getTCP, "first", 80, externalIPs()...)

	editService(t, second, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, 8082)) })
	wantOpen(t, getTCP, "second", 8082, externalIPs()...)
	wantAddresses(t, second, time.Minute, externalIPs()...)
	wantPortErrors(t, second, "80: hostport-ccm.io/PortConflict", "8082: none")

	before := proxies(t, second)
	watch := watchPublished(t, second, 8082)
	deleted := time.Now()
	if err := client.CoreV1().Services(ns).Delete(t.Context(), first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantHandover(t, first, deleted, "second", 80)
	wantPortsError(t, second, metav1.ConditionFalse)
	wantPortErrors(t, second)
	watch.wantAllKept(t, second, before)
	wantAddresses(t, second, time.Minute, externalIPs()...)
	stayed(t, second, before)
}

// wantHandover waits until a port of a Service that was deleted is another's
// backend's on every node, and tells how long that took.
func wantHandover(t *testing.T, holder *v1.Service, deleted time.Time, backend string, port int) {
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

// hasNoProxyOn says that a Service's proxy has let go of its ports on a node.
func hasNoProxyOn(ctx context.Context, svc *v1.Service, node string) bool {
	pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, ownedBy(svc))
	return err == nil && !slices.ContainsFunc(pods.Items, func(pod v1.Pod) bool { return pod.Spec.NodeName == node })
}

// wantPortErrors waits for what the first address says about its ports.
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

func TestReservedPortAndPortsOfOtherPodsAreExplained(t *testing.T) {
	ns := newNamespace(t)
	ssh := newService(t, ns, "ssh", nil, servicePort(v1.ProtocolTCP, 22))
	wantWarning(t, ssh, "PortConflict", "22/TCP", "loadBalancer.reservedPorts")
	wantNoProxies(t, ssh)

	free := occupy(t, ns, 8083)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/node-selector": "kubernetes.io/hostname=node1"}
	}, servicePort(v1.ProtocolTCP, 8083))
	wantPortsError(t, svc, metav1.ConditionTrue, "8083/TCP", ns+"/stranger")
	wantNoProxies(t, svc)
	free()
	wantAddresses(t, svc, time.Minute, externalIPs()[:1]...)
	wantOpen(t, getTCP, "web", 8083, externalIPs()[0])
}

// occupy has a pod, stranger, take a host port of node1 until free is called.
func occupy(t *testing.T, ns string, port int32) (free func()) {
	t.Helper()
	stranger := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "stranger"},
		Spec: v1.PodSpec{
			NodeName: "node1", TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{
				Name: "agnhost", Image: cluster.AgnhostImage, ImagePullPolicy: v1.PullNever, Args: []string{"pause"},
				Ports: []v1.ContainerPort{{ContainerPort: port, HostPort: port}},
			}},
		},
	}
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), stranger, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := client.CoreV1().Pods(ns).Delete(t.Context(), stranger.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestANodeWhosePortAnotherPodHasIsExplainedAndHoldsUpNobody(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	free := occupy(t, ns, 8084)
	others := externalIPs("node1")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80), servicePort(v1.ProtocolTCP, 8084))
	wantAddresses(t, svc, time.Minute, others...)
	wantWarning(t, svc, "ProxyUnschedulable", "node1", ns+"/stranger", "8084/TCP")
	wantOpen(t, getTCP, "web", 8084, others...)
	// A port changes, which replaces the proxies.
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports[0] = servicePort(v1.ProtocolTCP, 8085) })
	wantOpen(t, getTCP, "web", 8085, others...)
	free()
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 8084, externalIPs()[0])
}

func TestMaxNodesKeepsWhoServesAndReplacesWhoLeaves(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/max-nodes": "1"}
	}, servicePort(v1.ProtocolTCP, 80))
	eventually(t, time.Minute, "one node is published", func(ctx context.Context) error {
		return oneAddress(ctx, svc, "")
	})
	before, err := addresses(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	first := nodeOf(before[0])
	t.Cleanup(func() { label(t, first, "null") })
	label(t, first, `""`)
	eventually(t, time.Minute, "another node takes over from "+first, func(ctx context.Context) error {
		return oneAddress(ctx, svc, before[0])
	})
	after, err := addresses(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	label(t, first, "null")
	eventually(t, time.Minute, "the proxy is back on "+first, func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, ownedBy(svc))
		if err != nil || len(pods.Items) != len(externalIPs()) {
			return fmt.Errorf("%d proxies (%v)", len(pods.Items), err)
		}
		return nil
	})
	steady(t, 5*time.Second, "the address of the node that serves", func() error {
		now, err := addresses(t.Context(), svc)
		if err == nil && !slices.Equal(now, after) {
			err = fmt.Errorf("got %v, want %v", now, after)
		}
		return err
	})
}

func oneAddress(ctx context.Context, svc *v1.Service, other string) error {
	got, err := addresses(ctx, svc)
	if err == nil && (len(got) != 1 || got[0] == other) {
		err = fmt.Errorf("it has %v", got)
	}
	return err
}

func nodeOf(ip string) string { return fmt.Sprint("node", slices.Index(externalIPs(), ip)+1) }

// label sets the label that keeps load balancers off a node; value is JSON.
func label(t *testing.T, node, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, v1.LabelNodeExcludeBalancers, value)
	if _, err := client.CoreV1().Nodes().Patch(context.WithoutCancel(t.Context()), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

func TestCordonAloneKeepsTheAddressAndTheExcludeLabelTakesIt(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	t.Cleanup(func() { cordon(t, "node1", false); label(t, "node1", "null") })
	cordon(t, "node1", true)
	steady(t, 3*time.Second, "the address of a cordoned node that serves", func() error {
		got, err := addresses(t.Context(), svc)
		if err == nil && !slices.Equal(got, externalIPs()) {
			err = fmt.Errorf("got %v", got)
		}
		return err
	})
	label(t, "node1", `""`)
	wantAddresses(t, svc, time.Minute, externalIPs()[1:]...)
	label(t, "node1", "null")
	cordon(t, "node1", false)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
}

func cordon(t *testing.T, node string, on bool) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"unschedulable":%t}}`, on)
	if _, err := client.CoreV1().Nodes().Patch(context.WithoutCancel(t.Context()), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

func TestPolicyLocalFollowsTheEndpoints(t *testing.T) {
	ns := newNamespace(t)
	first := newPod(t, ns, "web", "node1")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
	}, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()[:1]...)
	wantOpen(t, getTCP, "web", 80, externalIPs()[0])

	second := newPod(t, ns, "web", "node2")
	wantAddresses(t, svc, time.Minute, externalIPs()[:2]...)
	first.remove(t)
	wantAddresses(t, svc, time.Minute, externalIPs()[1])
	wantOpen(t, getTCP, "web", 80, externalIPs()[1])
	second.remove(t)
	steady(t, 3*time.Second, "the last address while there is no endpoint", func() error {
		got, err := addresses(t.Context(), svc)
		if err == nil && !slices.Equal(got, externalIPs()[1:2]) {
			err = fmt.Errorf("got %v", got)
		}
		return err
	})
}
