//go:build e2e

package e2e

import (
	"context"
	"fmt"
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

func TestStandbyContinuesAndRepeatsNothingThatWasFinished(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	make := func(name string, port int32) *v1.Service {
		return newService(t, ns, name, func(s *v1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }, servicePort(v1.ProtocolTCP, port))
	}
	kept, edited, deleted := make("kept", 80), make("edited", 81), make("deleted", 82)
	for _, svc := range []*v1.Service{kept, edited, deleted} {
		wantAddresses(t, svc, time.Minute, externalIPs()...)
	}
	before, keptRules := versions(t, kept), ruleNames(t, kept)
	if err := sim.ForgetRequests(t.Context()); err != nil {
		t.Fatal(err)
	}
	kill := leadersKiller(t)
	// Long enough to be killed in the middle of it, and over before the lease is,
	// so that the next leader finds the work done.
	setOperationLatency(t, 5*time.Second)
	t.Cleanup(func() { setOperationLatency(t, 50*time.Millisecond) })

	var made []*v1.Service
	for i := range int32(3) {
		made = append(made, make(fmt.Sprint("made", i), 90+i))
	}
	if err := client.CoreV1().Services(ns).Delete(t.Context(), deleted.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	editService(t, edited, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, 443)) })
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
	wantRule(t, edited, "tcp:81,443")
	wantNothingLeft(t, deleted)
	wantOpen(t, getTCP, "web", 443, externalIPs()...)
	wantOpen(t, getTCP, "web", 92, externalIPs()...)
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

func setOperationLatency(t *testing.T, latency time.Duration) {
	t.Helper()
	if err := sim.Set(context.WithoutCancel(t.Context()), gcesim.Settings{OperationLatency: &metav1.Duration{Duration: latency}}); err != nil {
		t.Fatal(err)
	}
}

// acceptedWrites counts the changes of firewall rules, made or under way, by
// verb and rule.
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

// leadersKiller returns what kills the controller manager that leads, at once
// and without warning, while it works on some Services, and waits until the
// other one leads.
func leadersKiller(t *testing.T) (kill func(unfinished ...*v1.Service)) {
	t.Helper()
	before, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Deleting its pod would give it time to hand over.
	pod := leadersPod(t)
	container := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	return func(unfinished ...*v1.Service) {
		t.Helper()
		if _, err := sandbox.Exec(t.Context(), pod.Spec.NodeName, "ctr", "-n", "k8s.io", "task", "kill", "--signal", "SIGKILL", container); err != nil {
			t.Fatal(err)
		}
		for _, svc := range unfinished {
			if got, err := addresses(t.Context(), svc); err != nil || len(got) > 0 {
				t.Errorf("Service %s was finished before: %v (%v)", svc.Name, got, err)
			}
		}
		eventually(t, 2*time.Minute, "another controller manager leads", func(ctx context.Context) error {
			return leadsInsteadOf(ctx, before)
		})
	}
}

func TestLeaderThatIsStoppedHandsOver(t *testing.T) {
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
	began, givenUp := time.Now(), false
	for event := range leases.ResultChan() {
		lease, ok := event.Object.(*coordinationv1.Lease)
		if !ok {
			t.Fatalf("watching the lease: %v", event.Object)
		}
		switch ptr.Deref(lease.Spec.HolderIdentity, "") {
		case before:
		case "":
			givenUp = true
		default:
			t.Logf("the other one leads after %.1fs", time.Since(began).Seconds())
			if !givenUp {
				t.Error("the lease expired, nobody gave it up")
			}
			return
		}
	}
	t.Fatal("nobody else leads")
}

func leadersPod(t *testing.T) v1.Pod {
	t.Helper()
	node := leadersNode(t)
	pods, err := controllerPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(pods, func(p v1.Pod) bool { return p.Spec.NodeName == node.Name })
	if i < 0 {
		t.Fatalf("no controller manager is on %s", node.Name)
	}
	return pods[i]
}
