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

// lab is a monitor of nodes a, b, c, with a network and a clock of the test.
type lab struct {
	*testing.T
	*Monitor
	kube *fake.Clientset
	time time.Time

	mu     sync.Mutex
	silent []string // addresses
	dialed []string
	told   []string
}

func newLab(t *testing.T, objects ...runtime.Object) *lab {
	for i, name := range []string{"a", "b", "c"} {
		objects = append(objects, node(name, fmt.Sprint("10.0.0.", i+1), v1.ConditionTrue), lease(name, time.Unix(1, 0)))
	}
	l := &lab{T: t, kube: fake.NewClientset(objects...), time: time.Unix(1e9, 0)}
	// The fake loses what happens between its list and its watch.
	watched := make(chan struct{})
	l.kube.PrependWatchReactor("nodes", func(action clienttesting.Action) (bool, watch.Interface, error) {
		defer close(watched)
		w, err := l.kube.Tracker().Watch(action.GetResource(), action.GetNamespace())
		return true, w, err
	})
	shared := informers.NewSharedInformerFactory(l.kube, 0)
	l.Monitor = New(l.kube, shared.Core().V1().Nodes())
	l.Monitor.dial = l.connect
	l.Monitor.now = func() time.Time { return l.time }
	shared.Start(t.Context().Done())
	shared.WaitForCacheSync(t.Context().Done())
	<-watched
	return l
}

func (l *lab) connect(_ context.Context, address string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialed = append(l.dialed, address)
	if slices.Contains(l.silent, address) {
		return errors.New("no answer")
	}
	return nil
}

func (l *lab) rounds(n int) { l.roundsIn(l.Context(), n) }

func (l *lab) roundsIn(ctx context.Context, n int) {
	for range n {
		l.time = l.time.Add(interval)
		l.round(ctx)
	}
}

func (l *lab) follow() {
	l.Follow(func(v Verdict) { l.told = append(l.told, fmt.Sprint(v.Node, " ", v.Down)) })
}

func (l *lab) wantTold(want ...string) {
	l.Helper()
	if diff := cmp.Diff(want, l.told); diff != "" {
		l.Errorf("verdicts (-want +got):\n%s", diff)
	}
}

// notReady returns the nodes that Mask shows as such.
func (l *lab) notReady(nodes ...*v1.Node) []string {
	var names []string
	for _, n := range l.Mask(nodes) {
		if !isReady(n) {
			names = append(names, n.Name)
		}
	}
	return names
}

func TestADeadNodeIsMaskedAndTold(t *testing.T) {
	l := newLab(t)
	l.follow()
	l.rounds(1)
	l.silent = []string{"10.0.0.2:10256"}
	l.rounds(7)
	l.wantTold("b true")
	a, b := node("a", "10.0.0.1", v1.ConditionTrue), node("b", "10.0.0.2", v1.ConditionTrue)
	if got := l.notReady(a, b); !slices.Equal(got, []string{"b"}) || !isReady(b) {
		t.Errorf("masked: %v, the object itself is Ready: %t", got, isReady(b))
	}
	if n, err := testutil.GetGaugeMetricValue(nodesGauge.WithLabelValues("down")); err != nil || n != 1 {
		t.Errorf("metric says %v nodes are down (%v)", n, err)
	}
	// Whoever leads later is told too.
	l.told = nil
	l.follow()
	l.wantTold("b true")

	l.silent, l.told = nil, nil
	if _, err := l.kube.CoordinationV1().Leases(v1.NamespaceNodeLease).Update(t.Context(), lease("b", time.Unix(2, 0)), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.rounds(settling + 1)
	l.wantTold("b false")
	if got := l.notReady(a, b); got != nil {
		t.Errorf("masked: %v", got)
	}
}

func TestWithoutTheAPIServerNobodyIsDown(t *testing.T) {
	l := newLab(t)
	l.follow()
	l.rounds(1)
	l.kube.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no API server")
	})
	l.silent = []string{"10.0.0.2:10256"}
	l.rounds(30)
	l.wantTold()
}

func TestThatALeaseCannotBeReadIsLoggedOnce(t *testing.T) {
	l := newLab(t)
	var log bytes.Buffer
	ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log))))
	if err := l.kube.CoordinationV1().Leases(v1.NamespaceNodeLease).Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	l.roundsIn(ctx, 1)
	for silence := range 2 {
		l.silent = []string{"10.0.0.2:10256"}
		l.roundsIn(ctx, 30)
		if got := strings.Count(log.String(), "cannot be read"); got != silence+1 {
			t.Errorf("logged %d times in %d silences:\n%s", got, silence+1, log.String())
		}
		l.silent = nil
		l.roundsIn(ctx, 1)
	}
}

func TestLeasesAreReadOnlyInDoubt(t *testing.T) {
	l := newLab(t)
	before := len(l.kube.Actions())
	l.rounds(20)
	if actions := l.kube.Actions()[before:]; len(actions) > 0 {
		t.Errorf("requests although all is well: %v", actions)
	}
}

func TestOnlyReadyNodesAreAsked(t *testing.T) {
	addressless := node("z", "", v1.ConditionTrue)
	addressless.Status.Addresses = nil
	l := newLab(t, node("d", "10.0.0.4", v1.ConditionUnknown), addressless)
	l.rounds(1)
	slices.Sort(l.dialed)
	if diff := cmp.Diff([]string{"10.0.0.1:10256", "10.0.0.2:10256", "10.0.0.3:10256"}, l.dialed); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestANodeThatKubernetesCallsNotReadyIsForgotten(t *testing.T) {
	l := newLab(t)
	l.rounds(1)
	l.silent = []string{"10.0.0.2:10256"}
	l.rounds(7)
	if _, err := l.kube.CoreV1().Nodes().Update(t.Context(), node("b", "10.0.0.2", v1.ConditionUnknown), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	known := func(context.Context) (bool, error) { return len(l.addresses()) == 2, nil }
	if err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 20*time.Second, true, known); err != nil {
		t.Fatalf("the informer never learns: %v", err)
	}
	l.rounds(1)
	if got := l.notReady(node("b", "10.0.0.2", v1.ConditionTrue)); got != nil {
		t.Errorf("masked: %v", got)
	}
}

func TestANilMonitorChangesNothing(t *testing.T) {
	var m *Monitor
	m.Follow(func(Verdict) { t.Error("a verdict") })
	if got := m.Mask([]*v1.Node{node("a", "", v1.ConditionTrue)}); len(got) != 1 || !isReady(got[0]) {
		t.Errorf("got %v", got)
	}
}

func TestSignsOfLife(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := dial(t.Context(), address); !lives(err) {
		t.Errorf("a connection is no sign of life: %v", err)
	}
	listener.Close()
	if err := dial(t.Context(), address); err == nil || !lives(err) {
		t.Errorf("a refusal is no sign of life: %v", err)
	}
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if err := dial(expired, address); lives(err) {
		t.Errorf("no answer is a sign of life: %v", err)
	}
	if unreachable := (&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}); lives(unreachable) {
		t.Error("a router's word is a sign of life")
	}
}
