// Package rules computes, as plain data, the iptables rules that a node proxy
// needs for its config and its pod's addresses. It also writes the input for
// iptables-restore that installs them, and compares them with the output of
// iptables-save. It runs no program; package kernel does.
//
// Per IP family, the rules are in chains of the proxy's own. A jump at the head
// of a built-in chain leads to each of them:
//
//	mangle  FORWARD      clamp the MSS of TCP to the path MTU
//	filter  INPUT        drop INVALID TCP, which the pod would answer with a reset
//	filter  FORWARD      accept packets of the config's ports from its source
//	                     ranges, drop all others
//	nat     PREROUTING   DNAT the config's ports to the cluster IP
//	nat     POSTROUTING  masquerade the connections translated above
//
// With a limit of connections per client, packets from accepted sources pass one
// more chain, which drops new connections beyond it.
//
// All tables match a port by the original destination in connection tracking,
// which is what the client connected to. So they agree whatever another rule
// has rewritten.
//
// While the pod shuts down, TCP packets from accepted clients pass one more
// chain, which resets connections in the end: see ShutdownMark and
// ShutdownReset.
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
	chainMSS         = "HOSTPORT-MSS"
	chainInput       = "HOSTPORT-INPUT"
	chainForward     = "HOSTPORT-FORWARD"
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
	// iptables-save prints it.
	Spec []string
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
	var sources, dnat, masquerade []Rule
	// Packets from other sources reach the end of this chain, return to the
	// calling one, and meet the drop at its end.
	for _, prefix := range c.Sources(family) {
		sources = append(sources, rule("%s -j %s", source(prefix), target))
	}
	// These rules see every packet, not only the first of a connection: a client
	// whose source range is removed loses its connections at once. ICMP errors
	// about a connection come from routers and nodes, so no source range applies
	// to them. Path MTU discovery needs them, and kube-proxy rejects connections
	// to a Service without endpoints by them.
	icmp := map[config.Family]string{config.IPv4: "icmp", config.IPv6: "ipv6-icmp"}[family]
	forward := []Rule{
		rule("-m conntrack --ctstate INVALID -j DROP"),
		rule("-p %s -m conntrack --ctstate RELATED -j ACCEPT", icmp),
	}
	clusterIP, served := c.ClusterIP(family)
	for _, addr := range addrs {
		if !served || config.FamilyOf(addr) != family {
			continue
		}
		for _, port := range c.Ports {
			// The conntrack match covers SCTP even where the kernel has no sctp match.
			match := fmt.Sprintf("-p %s -m conntrack --ctorigdst %s --ctorigdstport %d", strings.ToLower(port.Protocol), addr, port.Port)
			forward = append(forward,
				metered(Meter{port, In}, "%s --ctdir ORIGINAL -j %s", match, chainSources),
				metered(Meter{port, Out}, "%s --ctdir REPLY -j ACCEPT", match))
			// Without a port in --to-destination the destination port stays.
			dnat = append(dnat, metered(Meter{port, Connections}, "%s -j DNAT --to-destination %s", match, clusterIP))
		}
		// By default the kernel tries source ports in sequence, which collides when
		// many connections begin at once.
		masquerade = append(masquerade, rule("-m conntrack --ctstate DNAT --ctorigdst %s -j MASQUERADE --random-fully", addr))
	}
	forward = append(forward, rule("-j DROP"))
	mss := rule("-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu")
	invalid := rule("-p tcp -m conntrack --ctstate INVALID -j DROP")
	return Ruleset{Family: family, Chains: slices.Concat(
		[]Chain{{Table: "mangle", Name: chainMSS, Hook: "FORWARD", Rules: []Rule{mss}}},
		extra,
		[]Chain{
			{Table: "filter", Name: chainInput, Hook: "INPUT", Rules: []Rule{invalid}},
			{Table: "filter", Name: chainSources, Rules: sources},
			{Table: "filter", Name: chainForward, Hook: "FORWARD", Rules: forward},
			{Table: "nat", Name: chainPrerouting, Hook: "PREROUTING", Rules: dnat},
			{Table: "nat", Name: chainPostrouting, Hook: "POSTROUTING", Rules: masquerade},
		})}
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

// source returns the match of a source range. iptables prints none for the range of all addresses.
// inet_ntop prints the last 32 bits of an IPv6 address as an IPv4 address if all bits before them are
// zero and the first 16 of them are not.
func source(prefix netip.Prefix) string {
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
	return Rule{Spec: strings.Fields(fmt.Sprintf(format, args...)), Meter: meter}
}

// Probe returns rules that use every match and target of Wanted, in chains that
// no packet passes. Installing them shows what the kernel supports.
func Probe(family config.Family) Ruleset {
	sample := map[config.Family]string{config.IPv4: "192.0.2.1", config.IPv6: "2001:db8::1"}[family]
	ruleset := Wanted(config.Config{
		Ports:        []config.Port{{Protocol: "TCP", Port: 1}},
		ClusterIPs:   []string{sample},
		SourceRanges: []string{sample + "/24"},
	}, family, []netip.Addr{netip.MustParseAddr(sample)})
	rename := strings.NewReplacer("HOSTPORT-", "HOSTPROBE-").Replace
	for i := range ruleset.Chains {
		chain := &ruleset.Chains[i]
		chain.Hook, chain.Name = "", rename(chain.Name)
		for _, r := range chain.Rules {
			for j := range r.Spec {
				r.Spec[j] = rename(r.Spec[j])
			}
		}
	}
	return ruleset
}
