// Package rules computes, as plain data, the iptables rules that a node proxy
// needs for its config and its pod's addresses. It also writes the input for
// iptables-restore that installs them, and compares them with the output of
// iptables-save. It runs no program; package kernel does.
//
// Per IP family, the rules are in chains of the proxy's own. A jump at the head
// of a built-in chain leads to each of these:
//
//	filter  INPUT        drop INVALID TCP, which the pod would answer with a reset
//	filter  FORWARD      accept packets of the config's ports from its source
//	                     ranges, drop all others
//	nat     PREROUTING   DNAT the config's ports to the cluster IP
//	nat     POSTROUTING  masquerade the connections translated above
//
// In FORWARD, packets from and to clients pass these:
//
//	HOSTPORT-FORWARD ─┬─ to clients: HOSTPORT-OUT, which accepts those of a port
//	                  └─ from clients: HOSTPORT-IN, from which those of a port return
//	                       └─ HOSTPORT-SOURCES ── HOSTPORT-CLIENTS ── HOSTPORT-RESET
//
// HOSTPORT-CLIENTS exists with a limit of connections per client, and drops new
// connections beyond it. HOSTPORT-RESET exists while the pod shuts down, and
// resets connections in the end: see ShutdownMark and ShutdownReset.
//
// The chains for ports and for source ranges are trees: what a packet costs
// grows with the logarithm of their number. A packet finds its port by its own
// header. The rule there also requires that it is the original destination in
// connection tracking, which is what the client connected to.
package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// The proxy's own chains.
const (
	// ownPrefix is what the names of all of them begin with.
	ownPrefix = "HOSTPORT-"

	chainInput       = "HOSTPORT-INPUT"
	chainForward     = "HOSTPORT-FORWARD"
	chainIn          = "HOSTPORT-IN"
	chainOut         = "HOSTPORT-OUT"
	chainSources     = "HOSTPORT-SOURCES"
	chainPrerouting  = "HOSTPORT-PREROUTING"
	chainPostrouting = "HOSTPORT-POSTROUTING"
	chainClients     = "HOSTPORT-CLIENTS"
	chainReset       = "HOSTPORT-RESET"
)

// Ruleset is all wanted rules of one IP family.
type Ruleset struct {
	Family config.Family
	// Chains are in the order of installation, table by table. Table filter comes
	// before nat, so that no packet is forwarded before its source is checked.
	Chains []Chain
	// prefix is what the names of all chains begin with, and of no chain of others.
	prefix string
}

// Chain is one of the proxy's own chains.
type Chain struct {
	Table, Name string
	// Hook is the built-in chain whose first rule jumps here. It is empty for a
	// chain that only other chains of the proxy jump to.
	Hook  string
	Rules []Rule
}

// Rule is one rule of a chain.
type Rule struct {
	// Spec is what follows "-A CHAIN" on the command line of iptables, in the form in which
	// iptables-save prints it. No word of it contains a space.
	Spec string
	// Meter is what the rule's packet counter counts.
	Meter Meter
}

// Meter is something counted per port. The zero Meter counts nothing.
type Meter struct {
	Port config.Port
	Kind Kind
}

// Kind is what a Meter counts.
type Kind string

// What is counted per port. Packets of kind Connections are connections or UDP
// flows, since only the first packet of each passes table nat.
const (
	Connections Kind = "connections"
	In          Kind = "in"
	Out         Kind = "out"
	// Limited are packets dropped because of the limit per client, of all ports together.
	Limited Kind = "limited"
)

// Wanted returns the rules that make a pod with the given addresses forward the
// config's ports and nothing else. It ignores addresses of the other family.
// For a family without a cluster IP, the rules drop all forwarded packets.
func Wanted(c config.Config, family config.Family, addrs []netip.Addr) Ruleset {
	return build(c, family, addrs, "ACCEPT")
}

// build returns the rules of Wanted, except that packets from the source ranges
// to the config's ports go to the given target. The extra chains precede the
// others of table filter.
func build(c config.Config, family config.Family, addrs []netip.Addr, target string, extra ...Chain) Ruleset {
	if c.MaxConnectionsPerClient > 0 {
		extra = append(extra, clientsChain(c.MaxConnectionsPerClient, family, target))
		target = chainClients
	}
	var ports []config.Port
	var pod []netip.Addr
	clusterIP, served := c.ClusterIP(family)
	if served {
		ports = sortedPorts(c.Ports)
		pod = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return config.FamilyOf(a) != family })
	}
	drop := rule("-j DROP")
	portTree := func(root Chain, field portField, kind Kind, target string, end ...Rule) []Chain {
		return tree[config.Port]{root,
			func(port config.Port) []Rule { return portRules(port, pod, field, kind, target) },
			func(ports []config.Port) []branch[config.Port] { return dividePorts(ports, field) },
			end}.chains(ports)
	}
	sources := tree[netip.Prefix]{Chain{Table: "filter", Name: chainSources},
		func(r netip.Prefix) []Rule { return []Rule{rule("%s -j %s", sourceMatch(r), target)} },
		divideRanges, []Rule{drop}}
	// By default the kernel tries source ports in sequence, which collides when
	// many connections begin at once.
	var masquerade []Rule
	for _, addr := range pod {
		masquerade = append(masquerade, rule("-m conntrack --ctstate DNAT --ctorigdst %s -j MASQUERADE --random-fully", addr))
	}
	return Ruleset{Family: family, prefix: ownPrefix, Chains: slices.Concat(
		extra,
		[]Chain{{Table: "filter", Name: chainInput, Hook: "INPUT", Rules: []Rule{rule("-p tcp -m conntrack --ctstate INVALID -j DROP")}}},
		sources.chains(disjoint(c.Sources(family))),
		portTree(Chain{Table: "filter", Name: chainIn}, destinationPort, In, "--ctdir ORIGINAL -j RETURN", drop),
		portTree(Chain{Table: "filter", Name: chainOut}, sourcePort, Out, "--ctdir REPLY -j ACCEPT", drop),
		[]Chain{{Table: "filter", Name: chainForward, Hook: "FORWARD", Rules: forward(family)}},
		// Without a port in --to-destination the destination port stays.
		portTree(Chain{Table: "nat", Name: chainPrerouting, Hook: "PREROUTING"}, destinationPort, Connections, "-j DNAT --to-destination "+clusterIP.String()),
		[]Chain{{Table: "nat", Name: chainPostrouting, Hook: "POSTROUTING", Rules: masquerade}},
	)}
}

// forward returns the rules that all forwarded packets pass, not only the first of a connection: a
// client whose source range is removed loses its connections at once. INVALID packets have no
// original destination, so they match no port and are dropped.
//
// ICMP errors about a connection come from routers and nodes, so no source range applies to them.
// Path MTU discovery needs them, and kube-proxy rejects connections to a Service without endpoints
// by them. The MSS is clamped to the path MTU here, as each table costs every packet.
func forward(family config.Family) []Rule {
	icmp := map[config.Family]string{config.IPv4: "icmp", config.IPv6: "ipv6-icmp"}[family]
	return []Rule{
		rule("-p %s -m conntrack --ctstate RELATED -j ACCEPT", icmp),
		rule("-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"),
		rule("-m conntrack --ctdir REPLY -g %s", chainOut),
		rule("-j %s", chainIn),
		rule("-g %s", chainSources),
	}
}

// portRules returns the rules of a port, one for each of the pod's addresses.
func portRules(port config.Port, pod []netip.Addr, field portField, kind Kind, target string) (out []Rule) {
	match := portMatch(port.Protocol, field, port.Port, port.Port) + " -m conntrack"
	if port.Protocol == "SCTP" {
		match = "-p sctp -m conntrack"
	}
	for _, addr := range pod {
		out = append(out, metered(Meter{port, kind}, "%s --ctorigdst %s --ctorigdstport %d %s", match, addr, port.Port, target))
	}
	return out
}

// clientsChain returns the chain of packets from accepted sources, which go to the target unless
// they begin a connection beyond the limit per client. It is not masqueraded yet, so one that is
// dropped here uses up no source port. An IPv6 client usually has a /64 network of its own.
func clientsChain(limit int, family config.Family, target string) Chain {
	mask := map[config.Family]int{config.IPv4: 32, config.IPv6: 64}[family]
	const drop = "-m conntrack --ctstate NEW -m connlimit --connlimit-above %d --connlimit-mask %d --connlimit-saddr -j DROP"
	return Chain{Table: "filter", Name: chainClients, Rules: []Rule{
		metered(Meter{Kind: Limited}, drop, limit, mask),
		rule("-j %s", target),
	}}
}

// sourceMatch returns the match of a source range. iptables prints none for the range of all addresses.
// inet_ntop prints the last 32 bits of an IPv6 address as an IPv4 address if all bits before them are
// zero and the first 16 of them are not.
func sourceMatch(prefix netip.Prefix) string {
	if prefix.Bits() == 0 {
		return ""
	}
	bytes := prefix.Addr().As16()
	head, tail := [12]byte(bytes[:12]), [4]byte(bytes[12:])
	if prefix.Addr().Is6() && head == [12]byte{} && [2]byte(tail[:2]) != [2]byte{} {
		return fmt.Sprintf("-s ::%s/%d", netip.AddrFrom4(tail), prefix.Bits())
	}
	return fmt.Sprintf("-s %s", prefix)
}

func rule(format string, args ...any) Rule { return metered(Meter{}, format, args...) }

func metered(meter Meter, format string, args ...any) Rule {
	return Rule{Spec: strings.TrimSpace(fmt.Sprintf(format, args...)), Meter: meter}
}

// Probe returns rules that use every match and target of Wanted, in chains that
// no packet passes. Installing them shows what the kernel supports.
func Probe(family config.Family) Ruleset {
	sample := map[config.Family]string{config.IPv4: "192.0.2.1", config.IPv6: "2001:db8::1"}[family]
	c := config.Config{ClusterIPs: []string{sample}, SourceRanges: []string{sample + "/24"}}
	for i := range uint16(fanout + 1) {
		c.Ports = append(c.Ports, config.Port{Protocol: "TCP", Port: i + 1}, config.Port{Protocol: "SCTP", Port: i + 1})
	}
	ruleset := Wanted(c, family, []netip.Addr{netip.MustParseAddr(sample)})
	ruleset.prefix = "HOSTPROBE-"
	rename := strings.NewReplacer(ownPrefix, ruleset.prefix).Replace
	for i := range ruleset.Chains {
		chain := &ruleset.Chains[i]
		chain.Hook, chain.Name = "", rename(chain.Name)
		for j := range chain.Rules {
			chain.Rules[j].Spec = rename(chain.Rules[j].Spec)
		}
	}
	return ruleset
}
