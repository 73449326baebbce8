package rules_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/nodeproxytest"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

var (
	pod4 = netip.MustParseAddr("10.1.0.5")
	pod6 = netip.MustParseAddr("fd00:1::5")
)

// lines returns the rules of one table as "CHAIN SPEC".
func lines(ruleset rules.Ruleset, table string) []string {
	var out []string
	for _, chain := range ruleset.Chains {
		if chain.Table != table {
			continue
		}
		for _, rule := range chain.Rules {
			out = append(out, strings.TrimPrefix(chain.Name, "HOSTPORT-")+" "+rule.Spec)
		}
	}
	return out
}

// installed returns the rules in the tables.
func installed(t fataler, iptables *nodeproxytest.Iptables) rules.InstalledRules {
	out, err := rules.ParseSave(save(t, iptables))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func save(t fataler, iptables *nodeproxytest.Iptables) string {
	text, err := iptables.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// fataler is a testing.T or a rapid.T.
type fataler interface {
	Context() context.Context
	Fatal(args ...any)
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
	limited := c
	limited.MaxConnectionsPerClient = 20
	noSources := c
	noSources.SourceRanges = nil
	manyPorts := c
	manyPorts.Ports = []config.Port{{Protocol: "UDP", Port: 53}}
	for i := range uint16(9) {
		manyPorts.Ports = append(manyPorts.Ports, config.Port{Protocol: "TCP", Port: 88 - i})
	}
	for name, tc := range map[string]struct {
		config config.Config
		family config.Family
		table  string
		want   []string
	}{
		"the ports of the pod's address go to the cluster IP, for any protocol": {c, config.IPv4, "nat", []string{
			"PREROUTING -p sctp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 99 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING -p tcp -m tcp --dport 80 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 -j DNAT --to-destination 10.96.0.7",
			"POSTROUTING -m conntrack --ctstate DNAT --ctorigdst 10.1.0.5 -j MASQUERADE --random-fully",
		}},
		"only the config's ports and source ranges are accepted, the rest is dropped": {c, config.IPv6, "filter", []string{
			"INPUT -p tcp -m conntrack --ctstate INVALID -j DROP",
			"SOURCES -s 2001:db8::/32 -j ACCEPT",
			"SOURCES -j DROP",
			"IN -p sctp -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 99 --ctdir ORIGINAL -j RETURN",
			"IN -p tcp -m tcp --dport 80 -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 80 --ctdir ORIGINAL -j RETURN",
			"IN -j DROP",
			"OUT -p sctp -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 99 --ctdir REPLY -j ACCEPT",
			"OUT -p tcp -m tcp --sport 80 -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 80 --ctdir REPLY -j ACCEPT",
			"OUT -j DROP",
			"FORWARD -p ipv6-icmp -m conntrack --ctstate RELATED -j ACCEPT",
			"FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
			"FORWARD -m conntrack --ctdir REPLY -g HOSTPORT-OUT",
			"FORWARD -j HOSTPORT-IN",
			"FORWARD -g HOSTPORT-SOURCES",
		}},
		"without source ranges no client is accepted": {noSources, config.IPv4, "filter", []string{
			"INPUT -p tcp -m conntrack --ctstate INVALID -j DROP",
			"SOURCES -j DROP",
			"IN -p sctp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 99 --ctdir ORIGINAL -j RETURN",
			"IN -p tcp -m tcp --dport 80 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 --ctdir ORIGINAL -j RETURN",
			"IN -j DROP",
			"OUT -p sctp -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 99 --ctdir REPLY -j ACCEPT",
			"OUT -p tcp -m tcp --sport 80 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 --ctdir REPLY -j ACCEPT",
			"OUT -j DROP",
			"FORWARD -p icmp -m conntrack --ctstate RELATED -j ACCEPT",
			"FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
			"FORWARD -m conntrack --ctdir REPLY -g HOSTPORT-OUT",
			"FORWARD -j HOSTPORT-IN",
			"FORWARD -g HOSTPORT-SOURCES",
		}},
		"packets from source ranges pass the limit per client, for IPv6 per /64": {limited, config.IPv6, "filter", []string{
			"CLIENTS -m conntrack --ctstate NEW -m connlimit --connlimit-above 20 --connlimit-mask 64 --connlimit-saddr -j DROP",
			"CLIENTS -j ACCEPT",
			"INPUT -p tcp -m conntrack --ctstate INVALID -j DROP",
			"SOURCES -s 2001:db8::/32 -j HOSTPORT-CLIENTS",
			"SOURCES -j DROP",
			"IN -p sctp -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 99 --ctdir ORIGINAL -j RETURN",
			"IN -p tcp -m tcp --dport 80 -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 80 --ctdir ORIGINAL -j RETURN",
			"IN -j DROP",
			"OUT -p sctp -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 99 --ctdir REPLY -j ACCEPT",
			"OUT -p tcp -m tcp --sport 80 -m conntrack --ctorigdst fd00:1::5 --ctorigdstport 80 --ctdir REPLY -j ACCEPT",
			"OUT -j DROP",
			"FORWARD -p ipv6-icmp -m conntrack --ctstate RELATED -j ACCEPT",
			"FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
			"FORWARD -m conntrack --ctdir REPLY -g HOSTPORT-OUT",
			"FORWARD -j HOSTPORT-IN",
			"FORWARD -g HOSTPORT-SOURCES",
		}},
		"a family without cluster IP forwards nothing but ICMP errors": {onlyIPv4, config.IPv6, "filter", []string{
			"INPUT -p tcp -m conntrack --ctstate INVALID -j DROP",
			"SOURCES -s 2001:db8::/32 -j ACCEPT",
			"SOURCES -j DROP",
			"IN -j DROP",
			"OUT -j DROP",
			"FORWARD -p ipv6-icmp -m conntrack --ctstate RELATED -j ACCEPT",
			"FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
			"FORWARD -m conntrack --ctdir REPLY -g HOSTPORT-OUT",
			"FORWARD -j HOSTPORT-IN",
			"FORWARD -g HOSTPORT-SOURCES",
		}},
		"a family without cluster IP rewrites nothing": {onlyIPv4, config.IPv6, "nat", nil},
		"more ports than a chain has are divided, by protocol first": {manyPorts, config.IPv4, "nat", []string{
			"PREROUTING -p tcp -g HOSTPORT-PREROUTING-1",
			"PREROUTING -p udp -m udp --dport 53 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 53 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-1 -p tcp -m tcp --dport 80:84 -g HOSTPORT-PREROUTING-2",
			"PREROUTING-1 -p tcp -m tcp --dport 85:88 -g HOSTPORT-PREROUTING-3",
			"PREROUTING-2 -p tcp -m tcp --dport 80 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 80 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-2 -p tcp -m tcp --dport 81 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 81 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-2 -p tcp -m tcp --dport 82 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 82 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-2 -p tcp -m tcp --dport 83 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 83 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-2 -p tcp -m tcp --dport 84 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 84 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-3 -p tcp -m tcp --dport 85 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 85 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-3 -p tcp -m tcp --dport 86 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 86 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-3 -p tcp -m tcp --dport 87 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 87 -j DNAT --to-destination 10.96.0.7",
			"PREROUTING-3 -p tcp -m tcp --dport 88 -m conntrack --ctorigdst 10.1.0.5 --ctorigdstport 88 -j DNAT --to-destination 10.96.0.7",
			"POSTROUTING -m conntrack --ctstate DNAT --ctorigdst 10.1.0.5 -j MASQUERADE --random-fully",
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

func TestShutdownRulesDifferFromWantedOnlyForTCPFromClients(t *testing.T) {
	c := config.Config{
		Ports:        []config.Port{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}},
		ClusterIPs:   []string{"10.96.0.7", "fd00:96::7"},
		SourceRanges: []string{"192.0.2.0/24", "2001:db8::/32"},
	}
	const (
		mark   = "RESET -p tcp -m conntrack --ctstate NEW -j CONNMARK --set-xmark 0x1/0xffffffff"
		reset  = "RESET -p tcp -m connmark ! --mark 0x1 -m tcp --tcp-flags FIN,RST NONE -j REJECT --reject-with tcp-reset"
		accept = "RESET -j ACCEPT"
	)
	for name, tc := range map[string]struct {
		build func(config.Config, config.Family, []netip.Addr) rules.Ruleset
		want  []string
	}{
		"ShutdownMark marks new connections":                                      {rules.ShutdownMark, []string{mark, accept}},
		"ShutdownReset resets connections without a mark that are not ending yet": {rules.ShutdownReset, []string{mark, reset, accept}},
	} {
		for _, family := range config.Families {
			t.Run(name+", "+string(family), func(t *testing.T) {
				wanted, got := rules.Wanted(c, family, []netip.Addr{pod4, pod6}), tc.build(c, family, []netip.Addr{pod4, pod6})
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
				if diff := cmp.Diff(lines(wanted, "nat"), lines(got, "nat")); diff != "" {
					t.Errorf("rules of table nat (-wanted +got):\n%s", diff)
				}
			})
		}
	}
}

func TestTheLimitPerClientHoldsDuringShutdown(t *testing.T) {
	c := config.Config{
		Ports: []config.Port{{Protocol: "TCP", Port: 80}}, ClusterIPs: []string{"10.96.0.7"}, SourceRanges: []string{"192.0.2.0/24"},
		MaxConnectionsPerClient: 20,
	}
	want := []string{
		"RESET -p tcp -m conntrack --ctstate NEW -j CONNMARK --set-xmark 0x1/0xffffffff",
		"RESET -j ACCEPT",
		"CLIENTS -m conntrack --ctstate NEW -m connlimit --connlimit-above 20 --connlimit-mask 32 --connlimit-saddr -j DROP",
		"CLIENTS -j HOSTPORT-RESET",
		"INPUT -p tcp -m conntrack --ctstate INVALID -j DROP",
		"SOURCES -s 192.0.2.0/24 -j HOSTPORT-CLIENTS",
	}
	got := lines(rules.ShutdownMark(c, config.IPv4, []netip.Addr{pod4}), "filter")
	if diff := cmp.Diff(want, got[:min(len(got), len(want))]); diff != "" {
		t.Errorf("first rules of table filter (-want +got):\n%s", diff)
	}
}

func TestProbeUsesNoChainOfTheWantedRules(t *testing.T) {
	iptables := nodeproxytest.NewIptables()
	probe := rules.Probe(config.IPv4)
	if text := probe.Restore(nil); strings.Contains(text, "HOSTPORT-") || strings.Contains(text, "-I ") {
		t.Errorf("the probe changes chains of the wanted rules:\n%s", text)
	}
	before := save(t, iptables)
	for _, text := range []string{probe.Restore(nil), probe.Remove()} {
		if err := iptables.Restore(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, save(t, iptables)); diff != "" {
		t.Errorf("tables after Remove (-before +after):\n%s", diff)
	}
}

func TestStale(t *testing.T) {
	c := config.Config{Ports: []config.Port{{Protocol: "UDP", Port: 53}, {Protocol: "TCP", Port: 80}, {Protocol: "SCTP", Port: 99}}, ClusterIPs: []string{"10.96.0.7"}}
	clusterIP, earlier := netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("10.96.0.6")
	for name, tc := range map[string]struct {
		flow rules.Flow
		want bool
	}{
		"a flow to the cluster IP is not stale":                      {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: clusterIP}, false},
		"a flow to an earlier cluster IP is stale":                   {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: earlier}, true},
		"a flow that is older than the rules is stale":               {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: pod4}, true},
		"a flow to another port is not stale":                        {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 54, ReplySrc: earlier}, false},
		"a UDP flow to a TCP port is not stale":                      {rules.Flow{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: earlier}, false},
		"an unanswered connection to an earlier cluster IP is stale": {rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: earlier}, true},
		"an established connection to it is not stale":               {rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: earlier, Established: true}, false},
		"a TCP flow to a UDP port is not stale":                      {rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: earlier}, false},
		"an SCTP flow is not stale":                                  {rules.Flow{Protocol: "SCTP", OrigDst: pod4, OrigDstPort: 99, ReplySrc: earlier}, false},
		"a flow to another address is not stale":                     {rules.Flow{Protocol: "UDP", OrigDst: earlier, OrigDstPort: 53, ReplySrc: earlier}, false},
		"a flow of a family without a cluster IP is not stale":       {rules.Flow{Protocol: "UDP", OrigDst: pod6, OrigDstPort: 53, ReplySrc: pod6}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := rules.NewMatcher(c, []netip.Addr{pod4, pod6}).Stale(tc.flow); got != tc.want {
				t.Errorf("Stale(%+v) = %v, want %v", tc.flow, got, tc.want)
			}
		})
	}
}

func genConfig(t *rapid.T) config.Config {
	port := rapid.Custom(func(t *rapid.T) config.Port {
		return config.Port{Protocol: rapid.SampledFrom([]string{"TCP", "UDP", "SCTP"}).Draw(t, "protocol"), Port: rapid.Uint16Range(1, 30).Draw(t, "port")}
	})
	return config.Config{
		Ports:        rapid.SliceOfNDistinct(port, 1, 30, rapid.ID[config.Port]).Draw(t, "ports"),
		ClusterIPs:   rapid.SampledFrom([][]string{{"10.96.0.7"}, {"10.96.0.8"}, {"fd00:96::7", "10.96.0.7"}, {"fd00:96::8"}}).Draw(t, "cluster IPs"),
		SourceRanges: rapid.SliceOfN(rapid.SampledFrom([]string{"0.0.0.0/0", "192.0.2.0/24", "2001:db8::/32"}), 0, 3).Draw(t, "ranges"),

		MaxConnectionsPerClient: rapid.SampledFrom([]int{0, 1, 64512}).Draw(t, "limit per client"),
	}
}

// damage changes the tables as another program could.
func damage(t *rapid.T, iptables *nodeproxytest.Iptables) {
	table := rapid.SampledFrom([]string{"mangle", "filter", "nat"}).Draw(t, "table")
	chains := installed(t, iptables)[table]
	var text string
	for _, chain := range slices.Sorted(maps.Keys(chains)) {
		switch rapid.IntRange(0, 3).Draw(t, "change of "+chain) {
		case 1:
			text += "-F " + chain + "\n"
		case 2:
			text += fmt.Sprintf("-I %s 1 -p tcp -j ACCEPT\n", chain)
		case 3:
			if len(chains[chain]) > 0 {
				text += fmt.Sprintf("-A %s %s\n", chain, chains[chain][0].Spec)
			}
		}
	}
	if err := iptables.Restore(t.Context(), "*"+table+"\n"+text+"COMMIT\n"); err != nil {
		t.Fatal(err)
	}
}

// foreign returns the rules of built-in chains that are not the proxy's jumps.
func foreign(tables rules.InstalledRules) []string {
	var out []string
	for _, table := range []string{"mangle", "filter", "nat"} {
		for _, chain := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
			for _, rule := range tables[table][chain] {
				if !strings.Contains(rule.Spec, "HOSTPORT") {
					out = append(out, table+" "+chain+" "+rule.Spec)
				}
			}
		}
	}
	return out
}

// chainsOf returns the names of a ruleset's chains, sorted.
func chainsOf(ruleset rules.Ruleset) (out []string) {
	for _, chain := range ruleset.Chains {
		out = append(out, chain.Table+" "+chain.Name)
	}
	slices.Sort(out)
	return out
}

// ownChains returns the names of the proxy's chains in the tables, sorted.
func ownChains(tables rules.InstalledRules) (out []string) {
	for table, chains := range tables {
		for name := range chains {
			if strings.HasPrefix(name, "HOSTPORT-") {
				out = append(out, table+" "+name)
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestRestoreLeadsFromAnyStateToTheRulesetAndChangesNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		iptables := nodeproxytest.NewIptables()
		for step := range rapid.IntRange(1, 4).Draw(t, "steps") {
			build := rapid.SampledFrom([]func(config.Config, config.Family, []netip.Addr) rules.Ruleset{rules.Wanted, rules.ShutdownMark, rules.ShutdownReset}).Draw(t, "rules")
			ruleset := build(genConfig(t), config.IPv4, []netip.Addr{pod4, pod6})
			before := installed(t, iptables)
			if err := iptables.Restore(t.Context(), ruleset.Restore(before)); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			after := installed(t, iptables)
			if diff := ruleset.Differences(after); len(diff) > 0 {
				t.Fatalf("step %d: %v", step, diff)
			}
			if diff := cmp.Diff(foreign(before), foreign(after)); diff != "" {
				t.Fatalf("step %d: foreign rules (-before +after):\n%s", step, diff)
			}
			var want []string
			for _, table := range []string{"filter", "nat"} {
				for _, line := range lines(ruleset, table) {
					want = append(want, table+" HOSTPORT-"+line)
				}
			}
			if diff := cmp.Diff(want, ruleset.Specs(after)); diff != "" {
				t.Fatalf("step %d: own rules (-want +got):\n%s", step, diff)
			}
			if diff := cmp.Diff(chainsOf(ruleset), ownChains(after)); diff != "" {
				t.Fatalf("step %d: own chains (-want +got):\n%s", step, diff)
			}
			damage(t, iptables)
		}
	})
}

func TestFilterIsInstalledBeforeNAT(t *testing.T) {
	text := rules.Wanted(config.Config{}, config.IPv4, nil).Restore(nil)
	if strings.Index(text, "*filter") > strings.Index(text, "*nat") {
		t.Errorf("table nat is first, so packets are forwarded before their source is checked:\n%s", text)
	}
}

func TestParseSaveRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a rule before any table":        "[0:0] -A INPUT -j DROP\n",
		"a rule without its counters":    "*filter\n-A INPUT -j DROP\n",
		"a counter that is not a number": "*filter\n[a:0] -A INPUT -j DROP\n",
		"another line":                   "*filter\nhello\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := rules.ParseSave(text); err == nil {
				t.Errorf("ParseSave(%q) = %v without an error", text, got)
			}
		})
	}
}

func TestCounts(t *testing.T) {
	http := config.Port{Protocol: "TCP", Port: 80}
	second := netip.MustParseAddr("10.1.0.6")
	ruleset := rules.Wanted(config.Config{Ports: []config.Port{http}, ClusterIPs: []string{"10.96.0.7"}}, config.IPv4, []netip.Addr{pod4, second})
	iptables := nodeproxytest.NewIptables()
	if err := iptables.Restore(t.Context(), ruleset.Restore(nil)); err != nil {
		t.Fatal(err)
	}
	iptables.Count("filter", "HOSTPORT-IN", "ORIGINAL", rules.Count{Packets: 3, Bytes: 300})
	iptables.Count("filter", "HOSTPORT-OUT", "--ctorigdst 10.1.0.5 --ctorigdstport 80 --ctdir REPLY", rules.Count{Packets: 2, Bytes: 9})
	iptables.Count("nat", "HOSTPORT-PREROUTING", "DNAT", rules.Count{Packets: 1, Bytes: 60})
	want := map[rules.Meter]rules.Count{
		{Port: http, Kind: rules.In}:          {Packets: 6, Bytes: 600},
		{Port: http, Kind: rules.Out}:         {Packets: 2, Bytes: 9},
		{Port: http, Kind: rules.Connections}: {Packets: 2, Bytes: 120},
	}
	if diff := cmp.Diff(want, ruleset.Counts(installed(t, iptables))); diff != "" {
		t.Errorf("counts over both addresses (-want +got):\n%s", diff)
	}
}
