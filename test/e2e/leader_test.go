//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
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
