package nodeproxy_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// eventually waits for a condition that depends on another goroutine.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func TestRunAppliesAReplacedConfigAndDrainsAtTheEnd(t *testing.T) {
	p := newTestProxy(t, web)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	ready := func() bool { status, _ := p.get("/readyz"); return status == 200 }
	eventually(t, "becoming ready", ready)
	// The sync period is an hour, so only the file's change can cause a sync.
	next := web
	next.ClusterIPs = []string{"10.96.0.8"}
	p.write(t, next)
	eventually(t, "applying the config", func() bool {
		text, err := p.kernel.Tables[config.IPv4].Save(t.Context())
		return err == nil && strings.Contains(text, "10.96.0.8")
	})
	p.SetDrain(50 * time.Millisecond) // a config has whole seconds only
	stop()
	eventually(t, "being not ready while draining", func() bool {
		_, body := p.get("/readyz")
		return strings.Contains(body, "being drained")
	})
	<-ended
	p.wantRuleset(t, rules.ShutdownReset, next)
	p.wantMetric(t, "hostport_nodeproxy_ready 0")
}

func TestAKernelThatCannotSetTimeoutsServesAndTheMetricsShowIt(t *testing.T) {
	for name, tc := range map[string]struct {
		err      error
		metric   string
		timeouts rules.TCPTimeouts
	}{
		"the kernel can":    {nil, "hostport_nodeproxy_conntrack_timeouts_set 1", rules.Timeouts},
		"the kernel cannot": {errors.New("no such module"), "hostport_nodeproxy_conntrack_timeouts_set 0", rules.TCPTimeouts{}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTestProxy(t, web)
			p.kernel.TimeoutsErr = tc.err
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); p.Run(ctx) }()
			eventually(t, "becoming ready", func() bool { status, _ := p.get("/readyz"); return status == 200 })
			stop()
			<-ended
			p.wantMetric(t, tc.metric)
			if p.kernel.TCPTimeouts != tc.timeouts {
				t.Errorf("timeouts are %+v, want %+v", p.kernel.TCPTimeouts, tc.timeouts)
			}
		})
	}
}

func TestConnectionsFromTheEndOfTheDrainTimeAreNotReset(t *testing.T) {
	for name, tc := range map[string]struct {
		drain time.Duration
		want  []string
	}{
		"with a drain time, new connections are marked before the others are reset": {time.Millisecond, []string{"mark", "reset"}},
		"without a drain time, all are reset at once":                               {0, []string{"reset"}},
	} {
		t.Run(name, func(t *testing.T) {
			var recorder recordingKernel
			p := newTestProxyWith(t, web, func(_ *nodeproxy.Options, kernel *nodeproxy.Kernel) {
				recorder.Kernel = *kernel
				*kernel = &recorder
			})
			p.Sync(t.Context())
			recorder.restores = nil
			p.SetDrain(tc.drain)
			p.ResetConnections(t.Context())
			if diff := cmp.Diff(tc.want, recorder.restores); diff != "" {
				t.Errorf("restores (-want +got):\n%s", diff)
			}
			p.wantRuleset(t, rules.ShutdownReset, web)
		})
	}
}

// recordingKernel records what each restore of IPv4 rules does to connections.
type recordingKernel struct {
	nodeproxy.Kernel
	restores []string
}

func (k *recordingKernel) Iptables(ctx context.Context, family config.Family) (nodeproxy.Iptables, error) {
	iptables, err := k.Kernel.Iptables(ctx, family)
	if family == config.IPv4 {
		iptables = recordingIptables{iptables, k}
	}
	return iptables, err
}

type recordingIptables struct {
	nodeproxy.Iptables
	kernel *recordingKernel
}

func (r recordingIptables) Restore(ctx context.Context, text string) error {
	does := "mark"
	if strings.Contains(text, "REJECT") {
		does = "reset"
	}
	r.kernel.restores = append(r.kernel.restores, does)
	return r.Iptables.Restore(ctx, text)
}

func TestAFailedResetLeavesTheRulesThatServe(t *testing.T) {
	p := newTestProxy(t, web)
	p.Sync(t.Context())
	p.kernel.FailRestore(errors.New("no such target"))
	p.ResetConnections(t.Context())
	p.wantRules(t, web)
}

func TestTheDrainTimeFollowsTheConfig(t *testing.T) {
	p := newTestProxy(t, web)
	next := web
	next.DrainSeconds = 600
	p.write(t, next)
	p.Sync(t.Context())
	if got := p.Drain(); got != 10*time.Minute {
		t.Errorf("the drain time is %s, want 10m", got)
	}
}

// stuckKernel hangs in Addresses until it is released.
type stuckKernel struct {
	nodeproxy.Kernel
	enter   func()
	release chan struct{}
}

func (k stuckKernel) Addresses() ([]netip.Addr, error) {
	k.enter()
	<-k.release
	return nil, errors.New("released")
}

func TestAHangingSyncFailsLivenessAndDoesNotDelayTheEnd(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	p := newTestProxyWith(t, web, func(_ *nodeproxy.Options, kernel *nodeproxy.Kernel) {
		*kernel = stuckKernel{*kernel, sync.OnceFunc(func() { close(entered) }), release}
	})
	p.SetResetTimes(time.Millisecond, 10*time.Millisecond)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	<-entered
	defer close(release)
	if status, body := p.get("/healthz"); status != 200 {
		t.Errorf("before its limit: /healthz = %d %s", status, body)
	}
	p.SetLastProgress(time.Now().Add(-p.Liveness() - time.Second))
	if status, body := p.get("/healthz"); status != 503 || !strings.Contains(body, "the last step of a sync ended") {
		t.Errorf("after its limit: /healthz = %d %s", status, body)
	}
	stop()
	<-ended
}

// slowKernel calls before each search for iptables.
type slowKernel struct {
	nodeproxy.Kernel
	before func(family config.Family)
}

func (k slowKernel) Iptables(ctx context.Context, family config.Family) (nodeproxy.Iptables, error) {
	k.before(family)
	return k.Kernel.Iptables(ctx, family)
}

func TestASlowSyncThatMakesProgressIsLive(t *testing.T) {
	var p *testProxy
	checked := false
	p = newTestProxyWith(t, web, func(_ *nodeproxy.Options, kernel *nodeproxy.Kernel) {
		*kernel = slowKernel{*kernel, func(family config.Family) {
			if family == config.IPv4 {
				p.SetLastProgress(time.Now().Add(-p.Liveness() - time.Second)) // as if this step had taken as long
				return
			}
			checked = true
			if status, body := p.get("/healthz"); status != 200 {
				t.Errorf("after the step for IPv4: /healthz = %d %s", status, body)
			}
		}}
	})
	p.Sync(t.Context())
	if !checked {
		t.Error("there was no step for IPv6")
	}
}
