package rules_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

var (
	pod4 = netip.MustParseAddr("10.1.0.5")
	pod6 = netip.MustParseAddr("fd00:1::5")
)

// lines writes a set as iptables-save would, without tables that are not asked
// for.
func lines(set rules.Ruleset, table string) []string {
	var out []string
	for _, chain := range set.Chains {
		if chain.Table != table {
			continue
		}
		for _, rule := range chain.Rules {
			out = append(out, strings.TrimPrefix(chain.Name, "HOSTPORT-")+" "+strings.Join(rule.Spec, " "))
		}
	}
	return out
}

func TestWanted(t *testing.T) {
	c := config.Config{
		Ports:        []config.Port{{Protocol: "TCP", Port: 80}, {Protocol: "SCTP", Port: 99}},
		ClusterIPs:   []string{"10.96.0.7", "fd00:96::7"},
		SourceRanges: []string{"192.0.2.0/24", "2001:db8::/32"},
	}
	both := []netip.Addr{pod4, pod6}
	onlyIPv4 := c
	onlyIPv4.ClusterIPs = c.ClusterIPs[:1]
	nobody := c
	nobody.SourceRanges = nil
	for name, tc := range map[string]struct {
		config config.Config
		family config.Family
		table  string
		want   []string
	}{
		"the pod's own address and port go to the cluster IP, whatever the protocol": {c, config.IPv4, "nat", []string{
			"PREROUTING -p tcp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING -p sctp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 99 -j DNAT --to-destination 10.96.0.7",
			"POSTROUTING -m conntrack --ctstate DNAT --ctorigdst 10.1.0.5 -j MASQUERADE --random-fully",
		}},
		"only wanted ports from wanted sources pass, then comes the drop": {c, config.IPv6, "filter", []string{
			"INPUT -p tcp -m conntrack --ctstate INVALID -j DROP",
			"SOURCES -s 2001:db8::/32 -j ACCEPT",
			"FORWARD -m conntrack --ctstate INVALID -j DROP",
			"FORWARD -p ipv6-icmp -m conntrack --ctstate RELATED -j ACCEPT",
			"FORWARD -p tcp -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 80 --ctdir ORIGINAL -j HOSTPORT-SOURCES",
			"FORWARD -p tcp -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 80 --ctdir REPLY -j ACCEPT",
			"FORWARD -p sctp -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 99 --ctdir ORIGINAL -j HOSTPORT-SOURCES",
			"FORWARD -p sctp -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 99 --ctdir REPLY -j ACCEPT",
			"FORWARD -j DROP",
		}},
		"no source range lets in nobody": {nobody, config.IPv4, "filter", []string{
			"INPUT -p tcp -m conntrack --ctstate INVALID -j DROP",
			"FORWARD -m conntrack --ctstate INVALID -j DROP",
			"FORWARD -p icmp -m conntrack --ctstate RELATED -j ACCEPT",
			"FORWARD -p tcp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 --ctdir ORIGINAL -j HOSTPORT-SOURCES",
			"FORWARD -p tcp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 --ctdir REPLY -j ACCEPT",
			"FORWARD -p sctp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 99 --ctdir ORIGINAL -j HOSTPORT-SOURCES",
			"FORWARD -p sctp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 99 --ctdir REPLY -j ACCEPT",
			"FORWARD -j DROP",
		}},
		"a family without cluster IP forwards nothing": {onlyIPv4, config.IPv6, "filter", []string{
			"INPUT -p tcp -m conntrack --ctstate INVALID -j DROP",
			"SOURCES -s 2001:db8::/32 -j ACCEPT",
			"FORWARD -m conntrack --ctstate INVALID -j DROP",
			"FORWARD -p ipv6-icmp -m conntrack --ctstate RELATED -j ACCEPT",
			"FORWARD -j DROP",
		}},
		"a family without cluster IP rewrites nothing": {onlyIPv4, config.IPv6, "nat", nil},
		"large segments are prevented": {c, config.IPv4, "mangle", []string{
			"MSS -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := lines(rules.Wanted(tc.config, tc.family, both), tc.table)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("rules of table %s (-want +got):\n%s", tc.table, diff)
			}
		})
	}
}

func TestFarewellDiffersFromWantedInWhatBecomesOfTCPFromClients(t *testing.T) {
	c := config.Config{
		Ports:        []config.Port{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}},
		ClusterIPs:   []string{"10.96.0.7", "fd00:96::7"},
		SourceRanges: []string{"192.0.2.0/24", "2001:db8::/32"},
	}
	const (
		begins = "RESET -p tcp -m conntrack --ctstate NEW -j CONNMARK --set-mark 1"
		older  = "RESET -p tcp -m connmark ! --mark 1 -m tcp --tcp-flags FIN,RST NONE -j REJECT --reject-with tcp-reset"
		passes = "RESET -j ACCEPT"
	)
	for name, tc := range map[string]struct {
		set  func(config.Config, config.Family, []netip.Addr) rules.Ruleset
		want []string
	}{
		"parting notes what begins":                       {rules.ShutdownMark, []string{begins, passes}},
		"farewell resets what did not, unless it is over": {rules.ShutdownReset, []string{begins, older, passes}},
	} {
		for _, family := range config.Families {
			t.Run(name+", "+string(family), func(t *testing.T) {
				wanted, got := rules.Wanted(c, family, []netip.Addr{pod4, pod6}), tc.set(c, family, []netip.Addr{pod4, pod6})
				want := slices.Clone(tc.want)
				for _, line := range lines(wanted, "filter") {
					if strings.HasPrefix(line, "SOURCES ") {
						line = strings.Replace(line, "-j ACCEPT", "-j HOSTPORT-RESET", 1)
					}
					want = append(want, line)
				}
				if diff := cmp.Diff(want, lines(got, "filter")); diff != "" {
					t.Errorf("rules of table filter (-want +got):\n%s", diff)
				}
				for _, table := range []string{"mangle", "nat"} {
					if diff := cmp.Diff(lines(wanted, table), lines(got, table)); diff != "" {
						t.Errorf("rules of table %s (-wanted +got):\n%s", table, diff)
					}
				}
			})
		}
	}
}

func TestProbeUsesNoChainOfTheRealRules(t *testing.T) {
	fake := rules.NewFake()
	probe := rules.Probe(config.IPv4)
	if text := probe.Restore(nil); strings.Contains(text, "HOSTPORT-") || strings.Contains(text, "-I ") {
		t.Errorf("the probe touches real chains:\n%s", text)
	}
	before := fake.Save()
	for _, text := range []string{probe.Restore(nil), probe.Remove()} {
		if err := fake.Restore(text); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, fake.Save()); diff != "" {
		t.Errorf("the probe left something behind (-before +after):\n%s", diff)
	}
}

func TestStale(t *testing.T) {
	c := config.Config{Ports: []config.Port{{Protocol: "UDP", Port: 53}, {Protocol: "TCP", Port: 80}}, ClusterIPs: []string{"10.96.0.7"}}
	target, old := netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("10.96.0.6")
	for name, tc := range map[string]struct {
		flow rules.Flow
		want bool
	}{
		"a flow to the cluster IP stays":                 {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: target}, false},
		"a flow to an old cluster IP goes":               {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: old}, true},
		"a flow from before the rules goes":              {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: pod4}, true},
		"a flow to another port stays":                   {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 54, ReplySrc: old}, false},
		"a UDP flow to a port that is TCP's stays":       {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: old}, false},
		"a connection attempt to an old target goes":     {rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: old}, true},
		"an established connection there stays":          {rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: old, Established: true}, false},
		"a TCP flow to a port that is UDP's stays":       {rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: old}, false},
		"a flow to somebody else stays":                  {rules.Flow{Protocol: "UDP", OrigDst: old, OrigDstPort: 53, ReplySrc: old}, false},
		"a flow in a family that is not forwarded stays": {rules.Flow{Protocol: "UDP", OrigDst: pod6, OrigDstPort: 53, ReplySrc: pod6}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := rules.Stale(c, []netip.Addr{pod4, pod6}, tc.flow); got != tc.want {
				t.Errorf("Stale(%+v) = %v, want %v", tc.flow, got, tc.want)
			}
		})
	}
}

func genConfig(t *rapid.T) config.Config {
	port := rapid.Custom(func(t *rapid.T) config.Port {
		return config.Port{Protocol: rapid.SampledFrom([]string{"TCP", "UDP", "SCTP"}).Draw(t, "protocol"), Port: rapid.Uint16Range(1, 5).Draw(t, "port")}
	})
	return config.Config{
		Ports:        rapid.SliceOfNDistinct(port, 1, 6, rapid.ID[config.Port]).Draw(t, "ports"),
		ClusterIPs:   rapid.SampledFrom([][]string{{"10.96.0.7"}, {"10.96.0.8"}, {"fd00:96::7", "10.96.0.7"}, {"fd00:96::8"}}).Draw(t, "cluster IPs"),
		SourceRanges: rapid.SliceOfN(rapid.SampledFrom([]string{"0.0.0.0/0", "192.0.2.0/24", "2001:db8::/32"}), 0, 3).Draw(t, "ranges"),
	}
}

// vandalise does to the tables what another program might.
func vandalise(t *rapid.T, fake *rules.Fake) {
	table := rapid.SampledFrom([]string{"mangle", "filter", "nat"}).Draw(t, "table")
	installed, err := rules.ParseSave(fake.Save())
	if err != nil {
		t.Fatal(err)
	}
	var text string
	for _, chain := range slices.Sorted(maps.Keys(installed[table])) {
		list := installed[table][chain]
		switch rapid.IntRange(0, 3).Draw(t, "what with "+chain) {
		case 1:
			text += "-F " + chain + "\n"
		case 2:
			text += fmt.Sprintf("-I %s 1 -p tcp -j ACCEPT\n", chain)
		case 3:
			if len(list) > 0 {
				text += fmt.Sprintf("-A %s %s\n", chain, list[0].Spec)
			}
		}
	}
	if err := fake.Restore("*" + table + "\n" + text + "COMMIT\n"); err != nil {
		t.Fatal(err)
	}
}

// foreign returns the rules that are not of our making.
func foreign(installed rules.InstalledRules) []string {
	var out []string
	for _, table := range []string{"mangle", "filter", "nat"} {
		for _, chain := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
			for _, rule := range installed[table][chain] {
				if !strings.Contains(rule.Spec, "HOSTPORT") {
					out = append(out, table+" "+chain+" "+rule.Spec)
				}
			}
		}
	}
	return out
}

func TestRestoreLeadsFromAnyStateToTheWantedOneAndTouchesNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fake := rules.NewFake()
		for step := range rapid.IntRange(1, 4).Draw(t, "steps") {
			build := rapid.SampledFrom([]func(config.Config, config.Family, []netip.Addr) rules.Ruleset{rules.Wanted, rules.ShutdownMark, rules.ShutdownReset}).Draw(t, "rules")
			set := build(genConfig(t), config.IPv4, []netip.Addr{pod4, pod6})
			installed, err := rules.ParseSave(fake.Save())
			if err != nil {
				t.Fatal(err)
			}
			if err := fake.Restore(set.Restore(installed)); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			after, err := rules.ParseSave(fake.Save())
			if err != nil {
				t.Fatal(err)
			}
			if diff := set.Differences(after); len(diff) > 0 {
				t.Fatalf("step %d: %v", step, diff)
			}
			if diff := cmp.Diff(foreign(installed), foreign(after)); diff != "" {
				t.Fatalf("step %d: foreign rules (-before +after):\n%s", step, diff)
			}
			var want []string
			for _, table := range []string{"mangle", "filter", "nat"} {
				for _, line := range lines(set, table) {
					want = append(want, table+" HOSTPORT-"+line)
				}
			}
			if diff := cmp.Diff(want, set.Specs(after)); diff != "" {
				t.Fatalf("step %d: own rules (-want +got):\n%s", step, diff)
			}
			vandalise(t, fake)
		}
	})
}

func TestFilterIsInstalledBeforeNAT(t *testing.T) {
	text := rules.Wanted(config.Config{}, config.IPv4, nil).Restore(nil)
	if strings.Index(text, "*filter") > strings.Index(text, "*nat") {
		t.Errorf("nat comes first, so that packets are sent on before it is known who may:\n%s", text)
	}
}

func TestParseSaveRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a rule before any table":     "[0:0] -A INPUT -j DROP\n",
		"a rule without its counters": "*filter\n-A INPUT -j DROP\n",
		"a counter that is no number": "*filter\n[a:0] -A INPUT -j DROP\n",
		"what is no rule at all":      "*filter\nhello\n",
	} {
		t.Run(name, func(t *testing.T) {
			if installed, err := rules.ParseSave(text); err == nil {
				t.Errorf("ParseSave(%q) = %v without an error", text, installed)
			}
		})
	}
}

func TestCounts(t *testing.T) {
	http := config.Port{Protocol: "TCP", Port: 80}
	second := netip.MustParseAddr("10.1.0.6")
	set := rules.Wanted(config.Config{Ports: []config.Port{http}, ClusterIPs: []string{"10.96.0.7"}}, config.IPv4, []netip.Addr{pod4, second})
	fake := rules.NewFake()
	if err := fake.Restore(set.Restore(nil)); err != nil {
		t.Fatal(err)
	}
	fake.Count("filter", "HOSTPORT-FORWARD", "ORIGINAL", rules.Count{Packets: 3, Bytes: 300})
	fake.Count("filter", "HOSTPORT-FORWARD", "--ctorigdst 10.1.0.5 --ctorigdstport 80 --ctdir REPLY", rules.Count{Packets: 2, Bytes: 9})
	fake.Count("nat", "HOSTPORT-PREROUTING", "DNAT", rules.Count{Packets: 1, Bytes: 60})
	installed, err := rules.ParseSave(fake.Save())
	if err != nil {
		t.Fatal(err)
	}
	want := map[rules.Meter]rules.Count{
		{Port: http, Kind: rules.In}:          {Packets: 6, Bytes: 600},
		{Port: http, Kind: rules.Out}:         {Packets: 2, Bytes: 9},
		{Port: http, Kind: rules.Connections}: {Packets: 2, Bytes: 120},
	}
	if diff := cmp.Diff(want, set.Counts(installed)); diff != "" {
		t.Errorf("counts over both addresses (-want +got):\n%s", diff)
	}
}

func TestFakeRefusesWhatIptablesRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a rule in a missing chain":             "*nat\n-A NONE -j DROP\nCOMMIT\n",
		"a jump to a missing chain":             "*nat\n-A OUTPUT -j HOSTPORT-X\nCOMMIT\n",
		"deleting a rule that is not installed": "*nat\n-D OUTPUT -j DROP\nCOMMIT\n",
		"removing a chain in use":               "*nat\n:HOSTPORT-X - [0:0]\n-A OUTPUT -j HOSTPORT-X\n-X HOSTPORT-X\nCOMMIT\n",
		"removing a built-in chain":             "*nat\n-X OUTPUT\nCOMMIT\n",
		"a table without commit":                "*nat\n-A OUTPUT -j DROP\n",
		"a rule outside of a table":             "-A OUTPUT -j DROP\n",
	} {
		t.Run(name, func(t *testing.T) {
			fake := rules.NewFake()
			before := fake.Save()
			if err := fake.Restore(text); err == nil {
				t.Error("no error")
			}
			if diff := cmp.Diff(before, fake.Save()); diff != "" {
				t.Errorf("tables changed in spite of the error (-before +after):\n%s", diff)
			}
		})
	}
}
