//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestStandbyContinuesUnfinishedWorkAndRepeatsNoFinishedWork(t *testing.T) {
	if err := waitForCleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	port, added := freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	make := func(name string, port int) *v1.Service {
		return newService(t, ns, name, func(s *v1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }, servicePort(v1.ProtocolTCP, port))
	}
	kept, edited, deleted := make("kept", freePort()), make("edited", port), make("deleted", freePort())
	for _, svc := range []*v1.Service{kept, edited, deleted} {
		wantAddresses(t, svc, time.Minute, externalIPs()...)
	}
	before, keptRules := versions(t, kept), ruleNames(t, kept)
	if err := sim.ForgetRequests(t.Context()); err != nil {
		t.Fatal(err)
	}
	kill := leadersKiller(t)
	// Long enough to kill the leader during the operations. They end before the lease
	// expires, so that the next leader finds the work done.
	setOperationLatency(t, 5*time.Second)
	t.Cleanup(func() { setOperationLatency(t, 50*time.Millisecond) })

	last := 0
	var made []*v1.Service
	for i := range 3 {
		last = freePort()
		made = append(made, make(fmt.Sprint("made", i), last))
	}
	deleteService(t, deleted)
	editService(t, edited, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, added)) })
	eventually(t, time.Minute, "the work has begun", func(ctx context.Context) error {
		writes, err := acceptedWrites(ctx)
		if err == nil && len(writes) < len(made)+2 {
			err = fmt.Errorf("so far: %v", writes)
		}
		return err
	})
	kill(made...)
	setOperationLatency(t, 50*time.Millisecond)

	for _, svc := range append(made, kept) {
		wantAddresses(t, svc, 2*time.Minute, externalIPs()...)
	}
	wantRule(t, edited, fmt.Sprintf("tcp:%d,%d", port, added))
	wantNothingLeft(t, deleted)
	wantOpen(t, getTCP, "web", added, externalIPs()...)
	wantOpen(t, getTCP, "web", last, externalIPs()...)
	wantNoWrites(t, keptRules)
	if diff := cmp.Diff(before, versions(t, kept)); diff != "" {
		t.Errorf("what was finished before was written again (-before +after):\n%s", diff)
	}
	writes, err := acceptedWrites(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for write, n := range writes {
		if n > 1 {
			t.Errorf("%s was accepted %d times", write, n)
		}
	}
}

func TestStoppedLeaderReleasesItsLease(t *testing.T) {
	before, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leases, err := client.CoordinationV1().Leases(cluster.ProductNamespace).Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=hostport-ccm", TimeoutSeconds: ptr.To[int64](120),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Stop()
	pod := leadersPod(t)
	if err := client.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	began, released := time.Now(), false
	for event := range leases.ResultChan() {
		lease, ok := event.Object.(*coordinationv1.Lease)
		if !ok {
			t.Fatalf("watching the lease: %v", event.Object)
		}
		switch ptr.Deref(lease.Spec.HolderIdentity, "") {
		case before:
		case "":
			released = true
		default:
			t.Logf("the other one leads after %.1fs", time.Since(began).Seconds())
			if !released {
				t.Error("the lease expired and was not released")
			}
			return
		}
	}
	t.Fatal("no other controller manager leads")
}

// A leader that gets no CPU cannot renew its lease and ends. Who leads afterwards, the other replica or
// the restarted process, finds nothing to do.
func TestALostLeaseCostsNothing(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	web := newService(t, ns, "web", inAllFamilies, servicePort(v1.ProtocolTCP, port))
	warned := newService(t, ns, "warned", func(s *v1.Service) {
		s.Spec.Selector = map[string]string{"app": "web"}
		s.Annotations = map[string]string{"hostport-ccm.io/max-node": "2"}
	}, servicePort(v1.ProtocolTCP, freePort()))
	all := addressesOf(cluster.Nodes(cluster.GCE), externalIP)
	wantAddresses(t, web, time.Minute, all...)
	wantAddresses(t, warned, time.Minute, externalIPs()...)
	for _, svc := range []*v1.Service{web, warned} {
		wantProxies(t, svc, len(externalIPs()))
	}
	wantOpen(t, getTCP, "web", port, all...)
	wantWarning(t, warned, "max-node")
	for name, c := range map[string]struct {
		replicas int
		lose     func(t *testing.T)
	}{
		"the leader is suspended":   {replicas, suspendLeader},
		"the only one is restarted": {1, func(t *testing.T) { leadersKiller(t)() }},
	} {
		t.Run(name, func(t *testing.T) {
			if c.replicas != replicas {
				scaleController(t, c.replicas)
				t.Cleanup(func() { scaleController(t, replicas) })
			}
			eventually(t, time.Minute, "somebody leads", func(ctx context.Context) error { return leadsInsteadOf(ctx, "") })
			rules := slices.Concat(ruleNames(t, web), ruleNames(t, warned))
			before, eventsBefore := []map[string]string{versions(t, web), versions(t, warned)}, ownEvents(t, ns)
			if err := sim.ForgetRequests(t.Context()); err != nil {
				t.Fatal(err)
			}
			stream := startNewConnections(t, port, cluster.Nodes(cluster.GCE), externalIP)
			c.lose(t)
			// A new Service is served after the others were reconciled.
			later := newService(t, ns, fmt.Sprint("later", c.replicas), func(s *v1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }, servicePort(v1.ProtocolTCP, freePort()))
			wantAddresses(t, later, 2*time.Minute, externalIPs()...)
			stream.wantNoneFailed(t, "meanwhile")
			after, eventsAfter := []map[string]string{versions(t, web), versions(t, warned)}, ownEvents(t, ns)
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("objects were written (-before +after):\n%s", diff)
			}
			maps.DeleteFunc(eventsAfter, func(key, _ string) bool { return strings.Contains(key, later.Name) })
			if diff := cmp.Diff(eventsBefore, eventsAfter); diff != "" {
				t.Errorf("events were recorded (-before +after):\n%s", diff)
			}
			wantNoWrites(t, rules)
		})
	}
}

// suspendLeader stops the process of the leader until the other one leads, continues it, and waits
// until it has ended and been restarted.
func suspendLeader(t *testing.T) {
	t.Helper()
	before, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pod := leadersPod(t)
	status := pod.Status.ContainerStatuses[0]
	container := strings.TrimPrefix(status.ContainerID, "containerd://")
	signal := func(name string) {
		if out, err := sandbox.Exec(t.Context(), pod.Spec.NodeName, "ctr", "-n", "k8s.io", "task", "kill", "--signal", name, container); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	signal("SIGSTOP")
	eventually(t, time.Minute, "the other one leads", func(ctx context.Context) error { return leadsInsteadOf(ctx, before) })
	signal("SIGCONT")
	eventually(t, 2*time.Minute, "the process has been restarted", func(ctx context.Context) error {
		live, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && (live.Status.ContainerStatuses[0].RestartCount == status.RestartCount || !isReady(*live)) {
			err = errors.New("it has not")
		}
		return err
	})
}

// ownEvents returns the versions of the events that hostport-ccm and its controllers recorded on the
// Services of a namespace and on Nodes.
func ownEvents(t *testing.T, namespace string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, ns := range []string{namespace, metav1.NamespaceDefault} {
		list, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if slices.Contains([]string{"hostport-ccm", "service-controller", "cloud-node-controller", "cloud-node-lifecycle-controller"}, e.Source.Component) {
				found[e.InvolvedObject.Kind+" "+e.InvolvedObject.Name+" "+e.Reason+" "+e.Message+" "+e.Name] = e.ResourceVersion
			}
		}
	}
	return found
}

// acceptedWrites counts the accepted changes of firewall rules, finished or not, by verb and rule.
func acceptedWrites(ctx context.Context) (map[string]int, error) {
	requests, err := sim.Requests(ctx)
	if err != nil {
		return nil, err
	}
	writes := map[string]int{}
	for _, r := range slices.DeleteFunc(requests, func(r gcesim.Request) bool { return !r.IsWrite() || r.Status != 200 }) {
		writes[r.Verb+" "+r.Resource]++
	}
	return writes, nil
}

func setOperationLatency(t *testing.T, latency time.Duration) {
	t.Helper()
	if err := sim.Set(context.WithoutCancel(t.Context()), gcesim.Settings{OperationLatency: &metav1.Duration{Duration: latency}}); err != nil {
		t.Fatal(err)
	}
}
