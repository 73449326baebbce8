// Package rules says what the node proxy wants the kernel to do, as plain data:
// the complete iptables rules for a config and the pod's addresses, the text
// that installs them, and how to tell from iptables-save's output whether they
// are still there. It runs nothing and touches no kernel; package kernel does.
//
// The shape, per IP family, in chains of the proxy's own, each hooked by one
// jump at the head of a built-in chain:
//
//	mangle  FORWARD      clamp TCP's MSS to the path MTU
//	filter  INPUT        drop INVALID TCP, which would be answered by a reset
//	filter  FORWARD      let through what belongs to a wanted port and comes
//	                     from a wanted source, drop everything else
//	nat     PREROUTING   DNAT a wanted port to the cluster IP
//	nat     POSTROUTING  masquerade what was DNATed here
//
// A wanted port is always recognised by the destination the client dialled
// (conntrack's original tuple), never by the rewritten one, so that all tables
// agree whatever was rewritten before.
//
// When the pod is about to go, TCP from clients that is let through takes one
// chain more, which in the end resets connections: see Parting and Farewell.
package rules

import (
	"net/netip"
	"strconv"
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
	chainFarewell    = "HOSTPORT-FAREWELL"
)

// Set is everything wanted in one IP family's tables.
type Set struct {
	Family config.Family
	// Chains are in the order in which they are to be installed: filter before
	// nat, so that nothing is sent on before it is known who may.
	Chains []Chain
}

// Chain is one chain of the proxy's own.
type Chain struct {
	Table, Name string
	// Hook is the built-in chain that jumps here with its first rule; empty for
	// a chain that is jumped to from another one of ours.
	Hook  string
	Rules []Rule
}

// Rule is one rule of a chain.
type Rule struct {
	// Spec is what follows "-A CHAIN" on an iptables command line.
	Spec []string
	// Meter says what the rule's packet counter counts, if that is of interest.
	Meter Meter
}

// Meter is something counted per port. The zero Meter counts nothing.
type Meter struct {
	Port config.Port
	Kind Kind
}

// Kind is what a Meter counts.
type Kind string

// What is counted per port: packets of the first kind are connections (or UDP
// flows), since NAT is decided once for each.
const (
	Connections Kind = "connections"
	In          Kind = "in"
	Out         Kind = "out"
)

// Wanted returns the rules that make a pod which owns the addresses forward what
// the config says, and nothing else. Addresses of the other family are ignored.
// For a family without a cluster IP everything forwarded is dropped.
func Wanted(c config.Config, family config.Family, addrs []netip.Addr) Set {
	return build(c, family, addrs, accept)
}

// build returns Wanted's rules, with the given verdict on what wanted clients
// send to wanted ports.
func build(c config.Config, family config.Family, addrs []netip.Addr, verdict string) Set {
	target, serves := c.ClusterIP(family)
	var own []netip.Addr
	for _, addr := range addrs {
		if serves && config.FamilyOf(addr) == family {
			own = append(own, addr)
		}
	}
	return Set{Family: family, Chains: []Chain{
		{Table: "mangle", Name: chainMSS, Hook: "FORWARD", Rules: []Rule{
			rule("-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu")}},
		{Table: "filter", Name: chainInput, Hook: "INPUT", Rules: []Rule{
			rule("-p tcp -m conntrack --ctstate INVALID -j DROP")}},
		{Table: "filter", Name: chainSources, Rules: sources(c.Sources(family), verdict)},
		{Table: "filter", Name: chainForward, Hook: "FORWARD", Rules: forward(c.Ports, family, own)},
		{Table: "nat", Name: chainPrerouting, Hook: "PREROUTING", Rules: prerouting(c.Ports, own, target)},
		{Table: "nat", Name: chainPostrouting, Hook: "POSTROUTING", Rules: postrouting(own)},
	}}
}

// accept is the verdict that lets a packet through.
const accept = "ACCEPT"

// sources gives the verdict on the wanted clients; the others fall out of the
// chain's end to the drop that ends the calling chain.
func sources(ranges []netip.Prefix, verdict string) []Rule {
	var out []Rule
	for _, prefix := range ranges {
		out = append(out, rule("-s "+prefix.String()+" -j "+verdict))
	}
	return out
}

// forward judges every packet, not only a connection's first: a client whose
// range is withdrawn is cut off at once. Errors about a connection (needed for
// path MTU discovery, and how kube-proxy rejects for a Service without
// endpoints) come from routers and nodes, so no source range applies to them.
func forward(ports []config.Port, family config.Family, own []netip.Addr) []Rule {
	icmp := map[config.Family]string{config.IPv4: "icmp", config.IPv6: "ipv6-icmp"}[family]
	out := []Rule{
		rule("-m conntrack --ctstate INVALID -j DROP"),
		rule("-p " + icmp + " -m conntrack --ctstate RELATED -j ACCEPT"),
	}
	each(ports, own, func(port config.Port, match string) {
		out = append(out,
			metered(match+" --ctdir ORIGINAL -j "+chainSources, Meter{port, In}),
			metered(match+" --ctdir REPLY -j ACCEPT", Meter{port, Out}))
	})
	return append(out, rule("-j DROP"))
}

// prerouting names no target port: it is the port dialled.
func prerouting(ports []config.Port, own []netip.Addr, target netip.Addr) []Rule {
	var out []Rule
	each(ports, own, func(port config.Port, match string) {
		out = append(out, metered(match+" -j DNAT --to-destination "+target.String(), Meter{port, Connections}))
	})
	return out
}

// postrouting masquerades with fully random source ports: without it the kernel
// tries ports in sequence, which collides under many new connections at once.
func postrouting(own []netip.Addr) []Rule {
	var out []Rule
	for _, addr := range own {
		out = append(out, rule("-m conntrack --ctstate DNAT --ctorigdst "+addr.String()+" -j MASQUERADE --random-fully"))
	}
	return out
}

// each calls visit with every port at every address and the match for packets
// that belong to it, of either direction. conntrack's match also serves SCTP in
// kernels that lack the sctp match.
func each(ports []config.Port, own []netip.Addr, visit func(port config.Port, match string)) {
	for _, addr := range own {
		for _, port := range ports {
			visit(port, "-p "+strings.ToLower(port.Protocol)+" -m conntrack --ctorigdst "+addr.String()+
				" --ctorigdstport "+strconv.Itoa(int(port.Port)))
		}
	}
}

func rule(spec string) Rule { return Rule{Spec: strings.Fields(spec)} }

func metered(spec string, meter Meter) Rule { return Rule{Spec: strings.Fields(spec), Meter: meter} }

// Probe returns rules that use every match and target that Wanted uses, in
// chains that no packet visits, to find out what a kernel accepts.
func Probe(family config.Family) Set {
	sample := map[config.Family]string{config.IPv4: "192.0.2.1", config.IPv6: "2001:db8::1"}[family]
	set := Wanted(config.Config{
		Ports:        []config.Port{{Protocol: "TCP", Port: 1}},
		ClusterIPs:   []string{sample},
		SourceRanges: []string{netip.PrefixFrom(netip.MustParseAddr(sample), 24).String()},
	}, family, []netip.Addr{netip.MustParseAddr(sample)})
	for i := range set.Chains {
		chain := &set.Chains[i]
		chain.Hook, chain.Name = "", probeName(chain.Name)
		for _, r := range chain.Rules {
			for j := range r.Spec {
				r.Spec[j] = probeName(r.Spec[j])
			}
		}
	}
	return set
}

func probeName(s string) string { return strings.Replace(s, "HOSTPORT-", "HOSTPROBE-", 1) }
