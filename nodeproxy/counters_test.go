package nodeproxy_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// saveKernel calls save in place of iptables-save of IPv4.
type saveKernel struct {
	nodeproxy.Kernel
	save func(ctx context.Context, real nodeproxy.Iptables) (string, error)
}

func (k *saveKernel) Iptables(ctx context.Context, family config.Family) (nodeproxy.Iptables, error) {
	iptables, err := k.Kernel.Iptables(ctx, family)
	if family == config.IPv4 {
		iptables = saveIptables{iptables, k}
	}
	return iptables, err
}

type saveIptables struct {
	nodeproxy.Iptables
	kernel *saveKernel
}

func (s saveIptables) Save(ctx context.Context) (string, error) {
	if s.kernel.save != nil {
		return s.kernel.save(ctx, s.Iptables)
	}
	return s.Iptables.Save(ctx)
}

// newSaveProxy returns a proxy whose calls of iptables-save can be replaced.
func newSaveProxy(t *testing.T, c config.Config) (*testProxy, *saveKernel) {
	t.Helper()
	var k *saveKernel
	p := newTestProxyWith(t, c, func(_ *nodeproxy.Options, kernel *nodeproxy.Kernel) {
		k = &saveKernel{Kernel: *kernel}
		*kernel = k
	})
	return p, k
}

const tcpIn = `hostport_nodeproxy_port_packets_total{family="IPv4",protocol="TCP",port="80",direction="in"}`

func (p *testProxy) countTCP(n uint64) {
	p.kernel.Tables[config.IPv4].Count("filter", "HOSTPORT-IN", "--dport 80", rules.Count{Packets: n, Bytes: 100 * n})
}

func TestPacketsBeforeRulesAreInstalledAnewAreCountedOnce(t *testing.T) {
	p := newTestProxy(t, web)
	p.Sync(t.Context())
	p.countTCP(5)
	next := web
	next.SourceRanges = []string{"192.0.2.0/24"}
	p.write(t, next)
	p.Sync(t.Context())
	p.countTCP(1)
	p.wantMetric(t, tcpIn+" 6")
	// A repair installs all rules, also those that nobody has changed.
	p.countTCP(10)
	if err := p.kernel.Tables[config.IPv4].Restore(t.Context(), "*nat\n-F HOSTPORT-PREROUTING\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	p.wantMetric(t, tcpIn+" 16")
	p.Sync(t.Context())
	p.wantMetric(t, tcpIn+" 16")
}

func TestCountersReadWhileRulesAreInstalledAnewAreNotCountedTwice(t *testing.T) {
	p, k := newSaveProxy(t, web)
	p.Sync(t.Context())
	p.countTCP(5)
	next := web
	next.SourceRanges = []string{"192.0.2.0/24"}
	p.write(t, next)
	k.save = func(ctx context.Context, real nodeproxy.Iptables) (string, error) {
		k.save = nil
		text, err := real.Save(ctx)
		p.Sync(ctx)
		return text, err
	}
	p.wantMetric(t, tcpIn+" 5")
	p.countTCP(7)
	p.wantMetric(t, tcpIn+" 12")
}

func TestCountersThatCannotBeReadAreLeftOut(t *testing.T) {
	p, k := newSaveProxy(t, web)
	p.Sync(t.Context())
	p.countTCP(5)
	k.save = func(context.Context, nodeproxy.Iptables) (string, error) { return "", errors.New("busy") }
	p.wantNoMetric(t, "hostport_nodeproxy_port_packets_total")
	p.wantMetric(t, "hostport_nodeproxy_ready 1")
	k.save = nil
	p.wantMetric(t, tcpIn+" 5")
}

func TestARequestForMetricsThatHangsDelaysNoRepair(t *testing.T) {
	p, k := newSaveProxy(t, web)
	p.Sync(t.Context())
	hanging, release, answered := make(chan struct{}), make(chan struct{}), make(chan struct{})
	k.save = func(ctx context.Context, real nodeproxy.Iptables) (string, error) {
		k.save = nil
		close(hanging)
		<-release
		return real.Save(ctx)
	}
	go func() { defer close(answered); p.get("/metrics") }()
	<-hanging
	if err := p.kernel.Tables[config.IPv4].Restore(t.Context(), "*nat\n-F HOSTPORT-PREROUTING\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	p.Sync(t.Context())
	p.wantReady(t)
	p.wantRules(t, web)
	close(release)
	<-answered
}

func TestAChangeWhileRulesAreVerifiedIsNoticedByTheNextSync(t *testing.T) {
	for name, before := range map[string]func(p *testProxy){
		"after installation": func(*testProxy) {},
		"at a sync that verifies": func(p *testProxy) {
			p.Sync(t.Context())
			if err := p.kernel.Tables[config.IPv4].Restore(t.Context(), "*filter\n-A OUTPUT -j ACCEPT\nCOMMIT\n"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, k := newSaveProxy(t, web)
			before(p)
			k.save = func(ctx context.Context, real nodeproxy.Iptables) (string, error) {
				text, err := real.Save(ctx)
				if err == nil {
					err = real.Restore(ctx, "*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n")
				}
				return text, err
			}
			p.Sync(t.Context())
			k.save = nil
			p.wantReady(t)
			p.Sync(t.Context())
			p.wantRules(t, web)
			p.wantMetric(t, `hostport_nodeproxy_rule_repairs_total{family="IPv4"} 1`)
		})
	}
}

func TestWithoutAGenerationRulesAreReadEveryFewSyncs(t *testing.T) {
	p := newTestProxy(t, web)
	fake := p.kernel.Tables[config.IPv4]
	fake.Unwatched()
	p.Sync(t.Context())
	installing := fake.Processes()
	for range 20 {
		p.Sync(t.Context())
	}
	if got := fake.Processes() - installing; got != 0 {
		t.Errorf("syncs shortly after the installation start %d processes, want none", got)
	}
	if err := fake.Restore(t.Context(), "*nat\n-F HOSTPORT-PREROUTING\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	p.PassTime(5*p.options.SyncPeriod + time.Second)
	p.Sync(t.Context())
	p.wantReady(t)
	p.wantRules(t, web)
}
