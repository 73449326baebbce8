package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/component-base/metrics/testutil"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

func node(name, ip string, ready v1.ConditionStatus) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: v1.NodeStatus{
			Addresses:  []v1.NodeAddress{{Type: v1.NodeExternalIP, Address: "203.0.113.1"}, {Type: v1.NodeInternalIP, Address: ip}},
			Conditions: []v1.NodeCondition{{Type: v1.NodeMemoryPressure, Status: v1.ConditionFalse}, {Type: v1.NodeReady, Status: ready}},
		},
	}
}

func lease(node string, renewed time.Time) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceNodeLease, Name: node},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}},
	}
}

// harness is a monitor of nodes a, b, c, with a network and a clock of the test.
type harness struct {
	*testing.T
	*Monitor
	kube *fake.Clientset
	time time.Time

	mu           sync.Mutex
	unresponsive []string // Addresses.
	dialed       []string
	notified     []string
}

func newHarness(t *testing.T, objects ...runtime.Object) *harness {
	for i, name := range []string{"a", "b", "c"} {
		objects = append(objects, node(name, fmt.Sprint("10.0.0.", i+1), v1.ConditionTrue), lease(name, time.Unix(1, 0)))
	}
	h := &harness{T: t, kube: fake.NewClientset(objects...), time: time.Unix(1e9, 0)}
	// The fake loses what happens between its list and its watch.
	watched := make(chan struct{})
	h.kube.PrependWatchReactor("nodes", func(action clienttesting.Action) (bool, watch.Interface, error) {
		defer close(watched)
		w, err := h.kube.Tracker().Watch(action.GetResource(), action.GetNamespace())
		return true, w, err
	})
	shared := informers.NewSharedInformerFactory(h.kube, 0)
	h.Monitor = New(h.kube, shared.Core().V1().Nodes())
	h.Monitor.dial = h.connect
	h.Monitor.now = func() time.Time { return h.time }
	shared.Start(t.Context().Done())
	shared.WaitForCacheSync(t.Context().Done())
	<-watched
	return h
}

func (h *harness) connect(_ context.Context, address string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dialed = append(h.dialed, address)
	if slices.Contains(h.unresponsive, address) {
		return errors.New("no answer")
	}
	return nil
}

func (h *harness) rounds(n int) { h.roundsIn(h.Context(), n) }

func (h *harness) roundsIn(ctx context.Context, n int) {
	for range n {
		h.time = h.time.Add(interval)
		h.round(ctx)
	}
}

func (h *harness) subscribe() {
	h.Subscribe(func(t Transition) { h.notified = append(h.notified, fmt.Sprint(t.Node, " ", t.Down)) })
}

func (h *harness) wantNotified(want ...string) {
	h.Helper()
	if diff := cmp.Diff(want, h.notified); diff != "" {
		h.Errorf("transitions (-want +got):\n%s", diff)
	}
}

// notReady returns the nodes that OverlayNotReady shows as such.
func (h *harness) notReady(nodes ...*v1.Node) []string {
	var names []string
	for _, n := range h.OverlayNotReady(nodes) {
		if !isReady(n) {
			names = append(names, n.Name)
		}
	}
	return names
}

func TestADeadNodeIsNotReadyAndTheSubscriberIsNotified(t *testing.T) {
	h := newHarness(t)
	h.subscribe()
	h.rounds(1)
	h.unresponsive = []string{"10.0.0.2:10256"}
	h.rounds(7)
	h.wantNotified("b true")
	a, b := node("a", "10.0.0.1", v1.ConditionTrue), node("b", "10.0.0.2", v1.ConditionTrue)
	if got := h.notReady(a, b); !slices.Equal(got, []string{"b"}) || !isReady(b) {
		t.Errorf("not ready: %v, the object itself is Ready: %t", got, isReady(b))
	}
	if n, err := testutil.GetGaugeMetricValue(nodesGauge.WithLabelValues("down")); err != nil || n != 1 {
		t.Errorf("the metric counts %v nodes down (%v)", n, err)
	}
	// A later subscriber is notified too.
	h.notified = nil
	h.subscribe()
	h.wantNotified("b true")

	h.unresponsive, h.notified = nil, nil
	if _, err := h.kube.CoordinationV1().Leases(v1.NamespaceNodeLease).Update(t.Context(), lease("b", time.Unix(2, 0)), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.rounds(recoveryRounds + 1)
	h.wantNotified("b false")
	if got := h.notReady(a, b); got != nil {
		t.Errorf("not ready: %v", got)
	}
}

func TestNoNodeGoesDownWithoutTheAPIServer(t *testing.T) {
	h := newHarness(t)
	h.subscribe()
	h.rounds(1)
	h.kube.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no API server")
	})
	h.unresponsive = []string{"10.0.0.2:10256"}
	h.rounds(30)
	h.wantNotified()
}

func TestALeaseThatCannotBeReadIsLoggedOnce(t *testing.T) {
	h := newHarness(t)
	var log bytes.Buffer
	ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log))))
	if err := h.kube.CoordinationV1().Leases(v1.NamespaceNodeLease).Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.roundsIn(ctx, 1)
	for failure := range 2 {
		h.unresponsive = []string{"10.0.0.2:10256"}
		h.roundsIn(ctx, 30)
		if got := strings.Count(log.String(), "cannot be read"); got != failure+1 {
			t.Errorf("logged %d times in %d failures:\n%s", got, failure+1, log.String())
		}
		h.unresponsive = nil
		h.roundsIn(ctx, 1)
	}
}

func TestLeasesOfAnsweringNodesAreNotRead(t *testing.T) {
	h := newHarness(t)
	before := len(h.kube.Actions())
	h.rounds(20)
	if actions := h.kube.Actions()[before:]; len(actions) > 0 {
		t.Errorf("requests although all nodes answer: %v", actions)
	}
}

func TestOnlyReadyNodesAreProbed(t *testing.T) {
	withoutAddress := node("z", "", v1.ConditionTrue)
	withoutAddress.Status.Addresses = nil
	h := newHarness(t, node("d", "10.0.0.4", v1.ConditionUnknown), withoutAddress)
	h.rounds(1)
	slices.Sort(h.dialed)
	if diff := cmp.Diff([]string{"10.0.0.1:10256", "10.0.0.2:10256", "10.0.0.3:10256"}, h.dialed); diff != "" {
		t.Errorf("probed (-want +got):\n%s", diff)
	}
}

func TestANodeThatKubernetesSetsNotReadyIsForgotten(t *testing.T) {
	h := newHarness(t)
	h.rounds(1)
	h.unresponsive = []string{"10.0.0.2:10256"}
	h.rounds(7)
	if _, err := h.kube.CoreV1().Nodes().Update(t.Context(), node("b", "10.0.0.2", v1.ConditionUnknown), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	known := func(context.Context) (bool, error) { return len(h.addresses()) == 2, nil }
	if err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 20*time.Second, true, known); err != nil {
		t.Fatalf("the informer does not see the update: %v", err)
	}
	h.rounds(1)
	if got := h.notReady(node("b", "10.0.0.2", v1.ConditionTrue)); got != nil {
		t.Errorf("not ready: %v", got)
	}
}

func TestANilMonitorDetectsNothing(t *testing.T) {
	var m *Monitor
	m.Subscribe(func(Transition) { t.Error("a transition") })
	if got := m.OverlayNotReady([]*v1.Node{node("a", "", v1.ConditionTrue)}); len(got) != 1 || !isReady(got[0]) {
		t.Errorf("got %v", got)
	}
}

func TestWhatTheOutcomeOfAProbeSays(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := dial(t.Context(), address); answerOf(err) != accepted {
		t.Errorf("a connection is not one: %v", err)
	}
	listener.Close()
	if err := dial(t.Context(), address); answerOf(err) != refused {
		t.Errorf("a refusal is not one: %v", err)
	}
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if err := dial(expired, address); answerOf(err) != noAnswer {
		t.Errorf("a timeout is an answer: %v", err)
	}
	if unreachable := (&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}); answerOf(unreachable) != noAnswer {
		t.Error("the answer of a router is one of the node")
	}
}

func TestGenerationChangesWithEveryChangeOfTheOverlay(t *testing.T) {
	h := newHarness(t)
	down := func() int { return len(h.down) }
	last, changes := down(), []string{}
	step := func(do func()) {
		before := h.Generation()
		do()
		if down() != last && h.Generation() == before {
			t.Errorf("from %d to %d nodes down, the generation stays", last, down())
		}
		if down() != last {
			changes = append(changes, fmt.Sprint(last, " to ", down()))
		}
		last = down()
	}
	step(func() { h.rounds(1) })
	h.unresponsive = []string{"10.0.0.2:10256"}
	for range 20 {
		step(func() { h.rounds(1) })
	}
	// Kubernetes notices too, so the detector forgets the node.
	n := node("b", "10.0.0.2", v1.ConditionFalse)
	if _, err := h.kube.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		got, err := h.nodes.Get("b")
		return err == nil && !isReady(got), nil
	}); err != nil {
		t.Fatal(err)
	}
	step(func() { h.rounds(1) })
	if diff := cmp.Diff([]string{"0 to 1", "1 to 0"}, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}
