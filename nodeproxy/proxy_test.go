package nodeproxy_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/nodeproxytest"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

var (
	pod4 = netip.MustParseAddr("10.1.0.5")
	pod6 = netip.MustParseAddr("fd00:1::5")
	web  = config.Config{
		Service:      "default/web",
		Ports:        []config.Port{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}},
		ClusterIPs:   []string{"10.96.0.7"},
		SourceRanges: []string{"0.0.0.0/0"},
	}
)

// testProxy is a proxy on a fake kernel. The test calls Sync itself.
type testProxy struct {
	*nodeproxy.Proxy
	options nodeproxy.Options
	kernel  *nodeproxytest.Kernel
}

func newTestProxy(t *testing.T, c config.Config) *testProxy {
	t.Helper()
	return newTestProxyWith(t, c, func(*nodeproxy.Options, *nodeproxy.Kernel) {})
}

// newTestProxyWith changes the options and the kernel before it makes the proxy.
func newTestProxyWith(t *testing.T, c config.Config, change func(*nodeproxy.Options, *nodeproxy.Kernel)) *testProxy {
	t.Helper()
	p := &testProxy{kernel: nodeproxytest.NewKernel(pod4, pod6), options: nodeproxy.Options{
		ConfigFile: filepath.Join(t.TempDir(), config.FileName), HealthPort: config.DefaultHealthPort, MetricsPort: config.DefaultMetricsPort, SyncPeriod: time.Hour,
	}}
	p.write(t, c)
	var kernel nodeproxy.Kernel = p.kernel
	change(&p.options, &kernel)
	var err error
	if p.Proxy, err = nodeproxy.New(p.options, kernel); err != nil {
		t.Fatal(err)
	}
	p.SetResetTimes(time.Millisecond, time.Hour)
	p.CountAlways()
	return p
}

// write replaces the config in one step.
func (p *testProxy) write(t *testing.T, c config.Config) {
	t.Helper()
	data, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(p.options.ConfigFile+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(p.options.ConfigFile+".new", p.options.ConfigFile)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (p *testProxy) wantReady(t *testing.T) {
	t.Helper()
	if status, body := p.get("/readyz"); status != 200 {
		t.Errorf("/readyz = %d %s", status, body)
	}
}

func (p *testProxy) wantNotReady(t *testing.T, because string) {
	t.Helper()
	if status, body := p.get("/readyz"); status != 503 || !strings.Contains(body, because) {
		t.Errorf("/readyz = %d %s, want 503 because of %q", status, body, because)
	}
}

func (p *testProxy) wantMetric(t *testing.T, line string) {
	t.Helper()
	if _, body := p.get("/metrics"); !strings.Contains(body, line+"\n") {
		t.Errorf("/metrics lacks %q:\n%s", line, body)
	}
}

// wantRules checks that the installed rules are those for normal operation.
func (p *testProxy) wantRules(t *testing.T, c config.Config) {
	t.Helper()
	p.wantRuleset(t, rules.Wanted, c)
}

// wantRuleset checks that the installed rules are those that build returns.
func (p *testProxy) wantRuleset(t *testing.T, build func(config.Config, config.Family, []netip.Addr) rules.Ruleset, c config.Config) {
	t.Helper()
	for family, fake := range p.kernel.Tables {
		ruleset := build(c, family, p.kernel.Addrs)
		var want []string
		for _, chain := range ruleset.Chains {
			for _, rule := range chain.Rules {
				want = append(want, chain.Table+" "+chain.Name+" "+rule.Spec)
			}
		}
		text, err := fake.Save(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		installed, err := rules.ParseSave(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, ruleset.Specs(installed)); diff != "" {
			t.Errorf("%s rules (-want +got):\n%s", family, diff)
		}
		if differences := ruleset.Differences(installed); len(differences) > 0 {
			t.Errorf("%s rules: %v", family, differences)
		}
	}
}

func TestReadyOnlyAfterTheRulesAreInstalled(t *testing.T) {
	p := newTestProxy(t, web)
	p.wantNotReady(t, "the first sync has not finished")
	p.kernel.FailRestore(errors.New("no memory"))
	if next := p.Sync(t.Context()); next > time.Second {
		t.Errorf("after a failure the next try is in %s", next)
	}
	p.wantNotReady(t, "IPv4 rules: no memory")
	if p.kernel.Forwards[config.IPv4] {
		t.Error("forwarding was switched on before there were rules")
	}
	p.kernel.FailRestore(nil)
	p.Sync(t.Context())
	p.wantReady(t)
	p.wantRules(t, web)
	if !p.kernel.Forwards[config.IPv4] {
		t.Error("ready without forwarding")
	}
	p.wantMetric(t, `hostport_nodeproxy_syncs_total{result="failed"} 1`)
	p.wantMetric(t, `hostport_nodeproxy_syncs_total{result="changed"} 1`)
	p.wantMetric(t, `hostport_nodeproxy_iptables_info{family="IPv4",flavour="fake"} 1`)
}

func TestASecondSyncChangesNothing(t *testing.T) {
	p := newTestProxy(t, web)
	p.Sync(t.Context())
	p.kernel.FailRestore(errors.New("an unexpected restore"))
	if next := p.Sync(t.Context()); next != time.Hour {
		t.Errorf("the next sync is in %s, want the sync period", next)
	}
	p.wantReady(t)
	p.wantMetric(t, `hostport_nodeproxy_syncs_total{result="unchanged"} 1`)
}

func TestTheNetworkIsReadOnlyAfterAChange(t *testing.T) {
	dual := web
	dual.ClusterIPs = []string{"10.96.0.7", "fd00:96::7"}
	p := newTestProxy(t, dual)
	p.kernel.Forwards[config.IPv6] = true
	for range 5 {
		p.Sync(t.Context())
	}
	p.wantReady(t)
	// The second time, the proxy itself had switched forwarding on.
	if p.kernel.AddressesCalls != 2 {
		t.Errorf("addresses were read %d times in 5 syncs without changes, want 2", p.kernel.AddressesCalls)
	}
	p.kernel.Forwards[config.IPv4], p.kernel.Forwards[config.IPv6] = false, false
	for range 2 {
		p.Sync(t.Context())
		p.wantNotReady(t, "forwarding of IPv6 is off")
	}
	if !p.kernel.Forwards[config.IPv4] {
		t.Error("forwarding of IPv4 was not switched on again")
	}
	p.kernel.Forwards[config.IPv6] = true
	p.kernel.Addrs = []netip.Addr{netip.MustParseAddr("10.1.0.9"), pod6}
	p.Sync(t.Context())
	p.wantReady(t)
	p.wantRules(t, dual)
}

func TestChangedRulesAreRepairedAndTheProxyIsNotReadyUntilThen(t *testing.T) {
	for name, damage := range map[string]string{
		"own rules are flushed":         "*nat\n-F HOSTPORT-PREROUTING\nCOMMIT\n",
		"a jump is removed":             "*filter\n-F FORWARD\nCOMMIT\n",
		"a rule is put before the jump": "*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n",
		"own chains are deleted":        "*nat\n-F PREROUTING\n-F HOSTPORT-PREROUTING\n-X HOSTPORT-PREROUTING\nCOMMIT\n",
		"a source range is widened":     "*filter\n-F HOSTPORT-SOURCES\n-A HOSTPORT-SOURCES -j ACCEPT\nCOMMIT\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := web
			c.SourceRanges = []string{"192.0.2.0/24"}
			p := newTestProxy(t, c)
			p.Sync(t.Context())
			if err := p.kernel.Tables[config.IPv4].Restore(t.Context(), damage); err != nil {
				t.Fatal(err)
			}
			p.kernel.FailRestore(errors.New("not now"))
			p.Sync(t.Context())
			p.wantNotReady(t, "not now")
			p.kernel.FailRestore(nil)
			p.Sync(t.Context())
			p.wantReady(t)
			p.wantRules(t, c)
			p.wantMetric(t, `hostport_nodeproxy_rule_repairs_total{family="IPv4"} 1`)
		})
	}
}

func TestAConfigChangeIsApplied(t *testing.T) {
	p := newTestProxy(t, web)
	p.Sync(t.Context())
	next := web
	next.ClusterIPs = []string{"10.96.0.8"}
	next.SourceRanges = []string{"192.0.2.0/24"}
	p.write(t, next)
	p.Sync(t.Context())
	p.wantReady(t)
	p.wantRules(t, next)
	p.wantMetric(t, "hostport_nodeproxy_config_generation 2")
}

func TestAnInvalidConfigLeavesTheLastValidOneInForce(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, p *testProxy){
		"the file is deleted": func(t *testing.T, p *testProxy) {
			if err := os.Remove(p.options.ConfigFile); err != nil {
				t.Fatal(err)
			}
		},
		"the file is truncated": func(t *testing.T, p *testProxy) {
			if err := os.Truncate(p.options.ConfigFile, 20); err != nil {
				t.Fatal(err)
			}
		},
		"a Service port is the health port":  func(t *testing.T, p *testProxy) { p.write(t, portOnly(config.DefaultHealthPort)) },
		"a Service port is the metrics port": func(t *testing.T, p *testProxy) { p.write(t, portOnly(config.DefaultMetricsPort)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newTestProxy(t, web)
			p.Sync(t.Context())
			damage(t, p)
			p.Sync(t.Context())
			p.wantReady(t)
			p.wantRules(t, web)
			p.wantMetric(t, "hostport_nodeproxy_config_valid 0")
			p.write(t, web)
			p.Sync(t.Context())
			p.wantMetric(t, "hostport_nodeproxy_config_valid 1")
		})
	}
}

func TestNewRefusesAMissingConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none.json")
	_, err := nodeproxy.New(nodeproxy.Options{ConfigFile: file}, nodeproxytest.NewKernel())
	if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "--config-file") {
		t.Errorf("error %v lacks the file or what to do", err)
	}
}

func TestReadinessWithIPv6(t *testing.T) {
	dual := web
	dual.ClusterIPs = []string{"10.96.0.7", "fd00:96::7"}
	for name, tc := range map[string]struct {
		config  config.Config
		arrange func(k *nodeproxytest.Kernel)
		want    string
	}{
		"forwarding is off":                         {dual, func(*nodeproxytest.Kernel) {}, "forwarding of IPv6 is off"},
		"forwarding is on":                          {dual, func(k *nodeproxytest.Kernel) { k.Forwards[config.IPv6] = true }, ""},
		"the pod has no IPv6 address":               {dual, func(k *nodeproxytest.Kernel) { k.Addrs = k.Addrs[:1] }, "this pod has no IPv6 address"},
		"the kernel has no IPv6":                    {dual, func(k *nodeproxytest.Kernel) { delete(k.Tables, config.IPv6) }, "no iptables for IPv6"},
		"the kernel has no IPv6 and none is needed": {web, func(k *nodeproxytest.Kernel) { delete(k.Tables, config.IPv6) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTestProxy(t, tc.config)
			tc.arrange(p.kernel)
			p.Sync(t.Context())
			if tc.want == "" {
				p.wantReady(t)
			} else {
				p.wantNotReady(t, tc.want)
			}
			p.wantRules(t, tc.config)
		})
	}
}

func TestAProxyForIPv4OnlyIgnoresTheIPv6ClusterIP(t *testing.T) {
	p := newTestProxyWith(t, web, func(options *nodeproxy.Options, _ *nodeproxy.Kernel) { options.IPv4Only = true })
	dual := web
	dual.ClusterIPs = []string{"10.96.0.7", "fd00:96::7"}
	p.write(t, dual)
	p.Sync(t.Context())
	p.wantReady(t)
	p.wantRules(t, web)
}

func TestIptablesOfAnUnneededFamilyIsSearchedOnce(t *testing.T) {
	p := newTestProxy(t, web)
	delete(p.kernel.Tables, config.IPv6)
	for range 3 {
		p.Sync(t.Context())
	}
	if p.kernel.IptablesCalls != 2 {
		t.Errorf("iptables was searched %d times, want once per family", p.kernel.IptablesCalls)
	}
}

func TestFlowsToAnEarlierTargetAreDeleted(t *testing.T) {
	p := newTestProxy(t, web)
	old := rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: netip.MustParseAddr("10.96.0.6")}
	good := rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: netip.MustParseAddr("10.96.0.7")}
	p.kernel.Tracked = []rules.Flow{old, good}
	p.kernel.FlushErr = errors.New("busy")
	p.Sync(t.Context())
	p.wantReady(t)
	p.wantMetric(t, "hostport_nodeproxy_conntrack_flush_failures_total 1")
	p.kernel.FlushErr = nil
	p.Sync(t.Context())
	p.kernel.Tracked = append(p.kernel.Tracked, old) // as by a packet in flight during the change
	p.Sync(t.Context())
	if diff := cmp.Diff([]rules.Flow{good}, p.kernel.Tracked, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
	p.wantMetric(t, "hostport_nodeproxy_conntrack_flushed_flows_total 2")
}

func TestAnUnansweredConnectionIsDeletedOnlyAfterTheHandshakeTime(t *testing.T) {
	p := newTestProxy(t, web)
	attempt := rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: netip.MustParseAddr("10.96.0.6")}
	p.kernel.Tracked = []rules.Flow{attempt}
	for range nodeproxy.FlushSyncs + 1 {
		p.Sync(t.Context())
		p.SetFlushTCPAfter(p.FlushTCPAfter().Add(time.Hour)) // however slow this machine is
	}
	if len(p.kernel.Tracked) != 1 {
		t.Error("it was deleted before the handshake time")
	}
	p.SetFlushTCPAfter(time.Now().Add(-time.Second))
	p.kernel.FlushErr = errors.New("busy")
	p.Sync(t.Context())
	p.kernel.FlushErr = nil
	p.Sync(t.Context())
	if len(p.kernel.Tracked) != 0 {
		t.Error("it was not deleted by the retry")
	}
	if !p.FlushTCPAfter().IsZero() {
		t.Error("the proxy never stops deleting TCP connections")
	}
}

func TestCountersContinueWhenRulesAreProgrammed(t *testing.T) {
	p := newTestProxy(t, web)
	p.Sync(t.Context())
	count := func() {
		p.kernel.Tables[config.IPv4].Count("filter", "HOSTPORT-IN", "-p tcp -m tcp --dport 80 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 --ctdir ORIGINAL", rules.Count{Packets: 5, Bytes: 500})
		p.kernel.Tables[config.IPv4].Count("nat", "HOSTPORT-PREROUTING", "-p udp", rules.Count{Packets: 1, Bytes: 60})
		p.Sync(t.Context())
	}
	count()
	count()
	next := web
	next.SourceRanges = []string{"192.0.2.0/24"}
	p.write(t, next)
	p.Sync(t.Context())
	count()
	p.wantMetric(t, `hostport_nodeproxy_port_packets_total{family="IPv4",protocol="TCP",port="80",direction="in"} 15`)
	p.wantMetric(t, `hostport_nodeproxy_port_bytes_total{family="IPv4",protocol="TCP",port="80",direction="in"} 1500`)
	p.wantMetric(t, `hostport_nodeproxy_port_connections_total{family="IPv4",protocol="UDP",port="53"} 3`)
}

func TestAnySequenceOfConfigsFaultsAndDamageEndsInTheWantedRules(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newTestProxy(t, web)
		p.kernel.Forwards[config.IPv6] = true
		current := web
		var fault error
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				current.SourceRanges = rapid.SliceOfN(rapid.SampledFrom([]string{"0.0.0.0/0", "::/0", "192.0.2.0/24"}), 0, 2).Draw(rt, "ranges")
				current.ClusterIPs = rapid.SampledFrom([][]string{{"10.96.0.7"}, {"fd00:96::7"}, {"10.96.0.8", "fd00:96::8"}}).Draw(rt, "cluster IPs")
				p.write(t, current)
			case 1:
				fault = errors.New("a fault")
			case 2:
				fault = nil
			case 3:
				p.kernel.FailRestore(nil)
				damage := rapid.SampledFrom([]string{"*filter\n-F FORWARD\nCOMMIT\n", "*nat\n-I PREROUTING 1 -j ACCEPT\nCOMMIT\n", "*nat\n:HOSTPORT-PREROUTING - [0:0]\nCOMMIT\n"}).Draw(rt, "damage")
				if err := p.kernel.Tables[config.IPv4].Restore(t.Context(), damage); err != nil {
					t.Fatal(err)
				}
			}
			p.kernel.FailRestore(fault)
			p.Sync(t.Context())
		}
		p.kernel.FailRestore(nil)
		p.Sync(t.Context())
		p.wantReady(t)
		p.wantRules(t, current)
		if t.Failed() {
			rt.FailNow()
		}
	})
}
