package nodeproxy

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func TestRunFollowsAConfigThatTheKubeletSwapsAndDrainsAtTheEnd(t *testing.T) {
	l := newLab(t, web)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	ready := func() bool { status, _ := l.get("/readyz"); return status == 200 }
	eventually(t, "becoming ready", ready)
	// The sync period is an hour: only the file's change can wake the loop.
	next := web
	next.ClusterIPs = []string{"10.96.0.8"}
	l.write(t, next)
	eventually(t, "following the config", func() (done bool) {
		l.fake.Change(func(k *FakeKernel) { done = strings.Contains(k.Tables[config.IPv4].Save(), "10.96.0.8") })
		return done
	})
	l.drain.Store(int64(50 * time.Millisecond)) // a config has whole seconds only
	l.resetTimeout = time.Hour
	stop()
	eventually(t, "being not ready while draining", func() bool {
		_, body := l.get("/readyz")
		return strings.Contains(body, "being drained")
	})
	<-ended
	l.wantSet(t, rules.ShutdownReset, next)
	l.wantMetric(t, "hostport_nodeproxy_ready 0")
}

func TestTheFarewellSparesWhatBeginsAtTheEndOfTheDrainTime(t *testing.T) {
	for name, tc := range map[string]struct {
		drain time.Duration
		want  []string
	}{
		"with a drain time, connections are noted before the others are reset": {time.Millisecond, []string{"noted", "reset"}},
		"without, they are reset at once":                                      {0, []string{"reset"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, web)
			l.pass(t.Context())
			recorder := &restores{Iptables: l.tables[config.IPv4].iptables}
			l.tables[config.IPv4].iptables = recorder
			l.drain.Store(int64(tc.drain))
			l.resetConnections(t.Context())
			if diff := cmp.Diff(tc.want, recorder.did); diff != "" {
				t.Errorf("what was done (-want +got):\n%s", diff)
			}
			l.wantSet(t, rules.ShutdownReset, web)
		})
	}
}

// restores records what becomes of connections.
type restores struct {
	Iptables
	did []string
}

func (r *restores) Restore(ctx context.Context, text string) error {
	did := "noted"
	if strings.Contains(text, "REJECT") {
		did = "reset"
	}
	r.did = append(r.did, did)
	return r.Iptables.Restore(ctx, text)
}

func TestAFarewellThatFailsLeavesWhatServes(t *testing.T) {
	l := newLab(t, web)
	l.pass(t.Context())
	l.fake.RestoreErr = errors.New("no such target")
	l.resetConnections(t.Context())
	l.wantRules(t, web)
}

func TestTheDrainTimeFollowsTheConfig(t *testing.T) {
	l := newLab(t, web)
	next := web
	next.DrainSeconds = 600
	l.write(t, next)
	l.pass(t.Context())
	if got := time.Duration(l.drain.Load()); got != 10*time.Minute {
		t.Errorf("it would drain for %s, want 10m", got)
	}
}

// stuckKernel hangs in every call until released.
type stuckKernel struct {
	Kernel
	enter   func()
	release chan struct{}
}

func (k stuckKernel) Addresses() ([]netip.Addr, error) {
	k.enter()
	<-k.release
	return nil, errors.New("released")
}

func TestAWedgedLoopIsNotLiveAndDoesNotHoldUpTheEnd(t *testing.T) {
	l := newLab(t, web)
	l.resetTimeout = 10 * time.Millisecond
	entered := make(chan struct{})
	stuck := stuckKernel{l.kernel, sync.OnceFunc(func() { close(entered) }), make(chan struct{})}
	l.kernel = stuck
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	<-entered
	defer close(stuck.release)
	if status, body := l.get("/healthz"); status != 200 {
		t.Errorf("before its limit: /healthz = %d %s", status, body)
	}
	l.health.pass(time.Now().Add(-l.liveness() - time.Second))
	if status, body := l.get("/healthz"); status != 503 || !strings.Contains(body, "the last sync ended") {
		t.Errorf("after its limit: /healthz = %d %s", status, body)
	}
	stop()
	<-ended
}
