package nodeproxy

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
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

// lab is a proxy on a fake kernel, whose passes the test makes itself.
type lab struct {
	*Proxy
	fake *FakeKernel
	file string
}

func newLab(t *testing.T, c config.Config) *lab {
	t.Helper()
	l := &lab{fake: NewFakeKernel(pod4, pod6), file: filepath.Join(t.TempDir(), config.FileName)}
	l.write(t, c)
	var err error
	l.Proxy, err = New(Options{ConfigFile: l.file, HealthPort: config.DefaultHealthPort, SyncPeriod: time.Hour}, l.fake)
	if err != nil {
		t.Fatal(err)
	}
	l.resetStep = time.Millisecond
	return l
}

// write replaces the config in one step.
func (l *lab) write(t *testing.T, c config.Config) {
	t.Helper()
	data, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(l.file+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(l.file+".new", l.file)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lab) get(path string) (status int, body string) {
	recorder := httptest.NewRecorder()
	l.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", path, nil))
	return recorder.Code, recorder.Body.String()
}

func (l *lab) wantReady(t *testing.T) {
	t.Helper()
	if status, body := l.get("/readyz"); status != 200 {
		t.Errorf("/readyz = %d %s", status, body)
	}
}

func (l *lab) wantNotReady(t *testing.T, because string) {
	t.Helper()
	if status, body := l.get("/readyz"); status != 503 || !strings.Contains(body, because) {
		t.Errorf("/readyz = %d %s, want 503 because of %q", status, body, because)
	}
}

func (l *lab) wantMetric(t *testing.T, line string) {
	t.Helper()
	if _, body := l.get("/metrics"); !strings.Contains(body, line+"\n") {
		t.Errorf("/metrics lacks %q:\n%s", line, body)
	}
}

// wantRules checks that the kernel forwards what the config says.
func (l *lab) wantRules(t *testing.T, c config.Config) {
	t.Helper()
	l.wantSet(t, rules.Wanted, c)
}

// wantSet checks that the kernel holds the rules that set makes of a config.
func (l *lab) wantSet(t *testing.T, set func(config.Config, config.Family, []netip.Addr) rules.Ruleset, c config.Config) {
	t.Helper()
	for family, fake := range l.fake.Tables {
		want := set(c, family, l.fake.Addrs)
		installed, err := rules.ParseSave(fake.Save())
		if err != nil {
			t.Fatal(err)
		}
		wanted := rules.NewFake()
		if err := wanted.Restore(want.Restore(nil)); err != nil {
			t.Fatal(err)
		}
		fresh, err := rules.ParseSave(wanted.Save())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Specs(fresh), want.Specs(installed)); diff != "" {
			t.Errorf("%s rules (-want +got):\n%s", family, diff)
		}
	}
}

func TestReadyOnlyAfterTheRulesAreIn(t *testing.T) {
	l := newLab(t, web)
	l.wantNotReady(t, "the first sync has not finished")
	l.fake.RestoreErr = errors.New("no memory")
	if next := l.pass(t.Context()); next > time.Second {
		t.Errorf("after a failure the next try is in %s", next)
	}
	l.wantNotReady(t, "IPv4 rules: no memory")
	if l.fake.Forwards[config.IPv4] {
		t.Error("forwarding was switched on before there were rules")
	}
	l.fake.RestoreErr = nil
	l.pass(t.Context())
	l.wantReady(t)
	l.wantRules(t, web)
	if !l.fake.Forwards[config.IPv4] {
		t.Error("ready without forwarding")
	}
	l.wantMetric(t, `hostport_nodeproxy_syncs_total{result="failed"} 1`)
	l.wantMetric(t, `hostport_nodeproxy_syncs_total{result="changed"} 1`)
	l.wantMetric(t, `hostport_nodeproxy_iptables_info{family="IPv4",flavour="fake"} 1`)
}

func TestASecondPassChangesNothing(t *testing.T) {
	l := newLab(t, web)
	l.pass(t.Context())
	l.fake.RestoreErr = errors.New("nobody should restore anything")
	if next := l.pass(t.Context()); next != time.Hour {
		t.Errorf("the next pass is in %s, want the sync period", next)
	}
	l.wantReady(t)
	l.wantMetric(t, `hostport_nodeproxy_syncs_total{result="unchanged"} 1`)
}

func TestWhatSomebodyRemovedIsRepairedAndNotReadyUntilThen(t *testing.T) {
	for name, damage := range map[string]string{
		"own rules are flushed":             "*nat\n-F HOSTPORT-PREROUTING\nCOMMIT\n",
		"a jump is removed":                 "*filter\n-F FORWARD\nCOMMIT\n",
		"a rule is put before the jump":     "*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n",
		"own chains are gone":               "*nat\n-F PREROUTING\n-F HOSTPORT-PREROUTING\n-X HOSTPORT-PREROUTING\nCOMMIT\n",
		"a source range is widened by hand": "*filter\n-F HOSTPORT-SOURCES\n-A HOSTPORT-SOURCES -j ACCEPT\nCOMMIT\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, web)
			l.pass(t.Context())
			if err := l.fake.Tables[config.IPv4].Restore(damage); err != nil {
				t.Fatal(err)
			}
			l.fake.RestoreErr = errors.New("not now")
			l.pass(t.Context())
			l.wantNotReady(t, "not now")
			l.fake.RestoreErr = nil
			l.pass(t.Context())
			l.wantReady(t)
			l.wantRules(t, web)
			l.wantMetric(t, `hostport_nodeproxy_rule_repairs_total{family="IPv4"} 1`)
		})
	}
}

func TestAConfigChangeIsTakenOver(t *testing.T) {
	l := newLab(t, web)
	l.pass(t.Context())
	next := web
	next.ClusterIPs = []string{"10.96.0.8"}
	next.SourceRanges = []string{"192.0.2.0/24"}
	l.write(t, next)
	l.pass(t.Context())
	l.wantReady(t)
	l.wantRules(t, next)
	l.wantMetric(t, "hostport_nodeproxy_config_generation 2")
}

func TestABadConfigLeavesTheLastGoodOneInForce(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, l *lab){
		"the file is gone": func(t *testing.T, l *lab) {
			if err := os.Remove(l.file); err != nil {
				t.Fatal(err)
			}
		},
		"the file is cut off": func(t *testing.T, l *lab) {
			if err := os.Truncate(l.file, 20); err != nil {
				t.Fatal(err)
			}
		},
		"a Service port is the health port": func(t *testing.T, l *lab) {
			c := web
			c.Ports = []config.Port{{Protocol: "TCP", Port: config.DefaultHealthPort}}
			l.write(t, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, web)
			l.pass(t.Context())
			spoil(t, l)
			l.pass(t.Context())
			l.wantReady(t)
			l.wantRules(t, web)
			l.wantMetric(t, "hostport_nodeproxy_config_valid 0")
			l.write(t, web)
			l.pass(t.Context())
			l.wantMetric(t, "hostport_nodeproxy_config_valid 1")
		})
	}
}

func TestNewRefusesABadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none.json")
	_, err := New(Options{ConfigFile: file}, NewFakeKernel())
	if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "--config-file") {
		t.Errorf("error %v names neither the file nor what to do", err)
	}
}

func TestIPv6(t *testing.T) {
	dual := web
	dual.ClusterIPs = []string{"10.96.0.7", "fd00:96::7"}
	for name, tc := range map[string]struct {
		config  config.Config
		arrange func(k *FakeKernel)
		want    string
	}{
		"forwarding is off":                      {dual, func(*FakeKernel) {}, "forwarding of IPv6 is off"},
		"forwarding is on":                       {dual, func(k *FakeKernel) { k.Forwards[config.IPv6] = true }, ""},
		"the pod has no IPv6 address":            {dual, func(k *FakeKernel) { k.Addrs = k.Addrs[:1] }, "this pod has no IPv6 address"},
		"the kernel has none":                    {dual, func(k *FakeKernel) { delete(k.Tables, config.IPv6) }, "no iptables for IPv6"},
		"the kernel has none but it is unneeded": {web, func(k *FakeKernel) { delete(k.Tables, config.IPv6) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, tc.config)
			tc.arrange(l.fake)
			l.pass(t.Context())
			if tc.want == "" {
				l.wantReady(t)
			} else {
				l.wantNotReady(t, tc.want)
			}
			l.wantRules(t, tc.config)
		})
	}
}

func TestIPv6IsLeftToPodsThatCanForwardIt(t *testing.T) {
	l := newLab(t, web)
	l.source.ipv4Only = true
	dual := web
	dual.ClusterIPs = []string{"10.96.0.7", "fd00:96::7"}
	l.write(t, dual)
	l.pass(t.Context())
	l.wantReady(t)
	l.wantRules(t, web)
}

func TestAFamilyNobodyNeedsIsProbedOnce(t *testing.T) {
	l := newLab(t, web)
	delete(l.fake.Tables, config.IPv6)
	for range 3 {
		l.pass(t.Context())
	}
	if l.fake.Probes != 2 {
		t.Errorf("iptables was looked for %d times, want once per family", l.fake.Probes)
	}
}

func TestFlowsToAnOldTargetAreFlushed(t *testing.T) {
	l := newLab(t, web)
	old := rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: netip.MustParseAddr("10.96.0.6")}
	good := rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: netip.MustParseAddr("10.96.0.7")}
	l.fake.Flows = []rules.Flow{old, good}
	l.fake.FlushErr = errors.New("busy")
	l.pass(t.Context())
	l.wantReady(t)
	l.wantMetric(t, "hostport_nodeproxy_conntrack_flush_failures_total 1")
	l.fake.FlushErr = nil
	l.pass(t.Context())
	l.fake.Flows = append(l.fake.Flows, old) // was on its way while the rules changed
	l.pass(t.Context())
	if diff := cmp.Diff([]rules.Flow{good}, l.fake.Flows, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
	l.wantMetric(t, "hostport_nodeproxy_conntrack_flushed_flows_total 2")
}

func TestAConnectionUnderWayGetsTimeToBeAnsweredBeforeItIsStale(t *testing.T) {
	l := newLab(t, web)
	attempt := rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: netip.MustParseAddr("10.96.0.6")}
	l.fake.Flows = []rules.Flow{attempt}
	for range flushPasses + 1 {
		l.pass(t.Context())
		l.answerBy = l.answerBy.Add(time.Hour) // however slow this machine is
	}
	if len(l.fake.Flows) != 1 {
		t.Error("it was deleted before its time")
	}
	l.answerBy = time.Now().Add(-time.Second)
	l.fake.FlushErr = errors.New("busy")
	l.pass(t.Context())
	l.fake.FlushErr = nil
	l.pass(t.Context())
	if len(l.fake.Flows) != 0 {
		t.Error("it was not deleted, with a retry")
	}
	if !l.answerBy.IsZero() {
		t.Error("it is looked for again without end")
	}
}

func TestTrafficIsCountedAcrossReprogramming(t *testing.T) {
	l := newLab(t, web)
	l.pass(t.Context())
	count := func() {
		l.fake.Tables[config.IPv4].Count("filter", "HOSTPORT-FORWARD", "-p tcp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 --ctdir ORIGINAL", rules.Count{Packets: 5, Bytes: 500})
		l.fake.Tables[config.IPv4].Count("nat", "HOSTPORT-PREROUTING", "-p udp", rules.Count{Packets: 1, Bytes: 60})
		l.pass(t.Context())
	}
	count()
	count()
	next := web
	next.SourceRanges = []string{"192.0.2.0/24"}
	l.write(t, next)
	l.pass(t.Context())
	count()
	l.wantMetric(t, `hostport_nodeproxy_port_packets_total{family="IPv4",protocol="TCP",port="80",direction="in"} 15`)
	l.wantMetric(t, `hostport_nodeproxy_port_bytes_total{family="IPv4",protocol="TCP",port="80",direction="in"} 1500`)
	l.wantMetric(t, `hostport_nodeproxy_port_connections_total{family="IPv4",protocol="UDP",port="53"} 3`)
}

func TestLivenessFailsWhenNoPassEnds(t *testing.T) {
	start := time.Now()
	h := newHealth(start)
	if err := h.live(start.Add(59*time.Second), time.Minute); err != nil {
		t.Errorf("within the limit: %v", err)
	}
	if err := h.live(start.Add(61*time.Second), time.Minute); err == nil {
		t.Error("a wedged loop counts as alive")
	}
	h.pass(start.Add(30 * time.Second))
	if err := h.live(start.Add(61*time.Second), time.Minute); err != nil {
		t.Errorf("after a pass: %v", err)
	}
}

func TestAnySequenceOfConfigsFaultsAndDamageEndsAsWantedOnceFaultsStop(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		l := &lab{fake: NewFakeKernel(pod4, pod6), file: filepath.Join(dir, config.FileName)}
		l.fake.Forwards[config.IPv6] = true
		l.write(t, web)
		var err error
		if l.Proxy, err = New(Options{ConfigFile: l.file, SyncPeriod: time.Hour}, l.fake); err != nil {
			t.Fatal(err)
		}
		current := web
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				current.SourceRanges = rapid.SliceOfN(rapid.SampledFrom([]string{"0.0.0.0/0", "::/0", "192.0.2.0/24"}), 0, 2).Draw(rt, "ranges")
				current.ClusterIPs = rapid.SampledFrom([][]string{{"10.96.0.7"}, {"fd00:96::7"}, {"10.96.0.8", "fd00:96::8"}}).Draw(rt, "cluster IPs")
				l.write(t, current)
			case 1:
				l.fake.RestoreErr = errors.New("a fault")
			case 2:
				l.fake.RestoreErr = nil
			case 3:
				damage := rapid.SampledFrom([]string{"*filter\n-F FORWARD\nCOMMIT\n", "*nat\n-I PREROUTING 1 -j ACCEPT\nCOMMIT\n", "*nat\n:HOSTPORT-PREROUTING - [0:0]\nCOMMIT\n"}).Draw(rt, "damage")
				if err := l.fake.Tables[config.IPv4].Restore(damage); err != nil {
					t.Fatal(err)
				}
			}
			l.pass(t.Context())
		}
		l.fake.RestoreErr = nil
		l.pass(t.Context())
		l.wantReady(t)
		l.wantRules(t, current)
		if t.Failed() {
			rt.FailNow()
		}
	})
}
