package edge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// Config names the interfaces of the host and the network.
type Config struct {
	// Internet and VPC are the interfaces towards each.
	Internet, VPC string
	// Network is the VPC network whose rules are enforced. Empty: the snapshot's.
	Network string
}

// Table is the nftables table, of family inet, with all rules.
const Table = "gcesim"

// Ruleset renders a snapshot as input of `nft -f -`, which replaces the table in one transaction.
//
// The filter comes after both translations. There a packet has the source that firewall rules refer
// to (for a VM that dials another VM's external address, its own external address) and the VM's
// internal destination.
func Ruleset(snapshot gcesim.Snapshot, config Config) string {
	network := config.Network
	if network == "" {
		network = snapshot.Network
	}
	vms := vmsOf(snapshot.Instances, network)
	return fmt.Sprintf(`table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	map internal_of { type ipv4_addr : ipv4_addr; %[4]s }
	map external_of { type ipv4_addr : ipv4_addr; %[5]s }
	set with_external { type ipv4_addr; %[6]s }
	set external_ipv6 { type ipv6_addr; %[8]s }
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		iifname { "%[2]s", "%[3]s" } dnat ip to ip daddr map @internal_of
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "%[2]s" snat ip to ip saddr map @external_of
		oifname "%[3]s" ct status dnat snat ip to ip saddr map @external_of
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
		iifname "%[3]s" oifname "%[2]s" meta nfproto ipv4 ip saddr != @with_external counter drop
		iifname "%[3]s" ct status dnat ip saddr != @with_external counter drop
		iifname "%[2]s" meta nfproto ipv4 ct status & dnat == 0 counter drop
		iifname "%[3]s" oifname "%[2]s" meta nfproto ipv6 ip6 saddr != @external_ipv6 counter drop
		iifname "%[2]s" meta nfproto ipv6 jump ingress
	}
	chain filter_translated {
		type filter hook postrouting priority srcnat + 50; policy accept;
		ct state established,related accept
		oifname "%[3]s" meta nfproto ipv4 ct status dnat jump ingress
	}
	chain ingress {
%[7]s		counter drop
	}
}
`, Table, config.Internet, config.VPC,
		elements(vms, func(v vm) string { return v.external + " : " + v.internal }),
		elements(vms, func(v vm) string { return v.internal + " : " + v.external }),
		elements(vms, func(v vm) string { return v.internal }),
		ingress(snapshot, network),
		elements(externalIPv6s(snapshot.Instances, network), func(address string) string { return address }))
}

// vm is a mapping of an internal and an external IPv4 address.
type vm struct{ internal, external string }

// vmsOf returns the running VMs of a network with an external IPv4 address.
func vmsOf(instances []gcesim.Instance, network string) []vm {
	var vms []vm
	for _, in := range instances {
		for _, nic := range in.Interfaces() {
			if nic.Network == network && nic.NetworkIP != "" && nic.NatIP != "" && in.Status == "RUNNING" {
				vms = append(vms, vm{internal: nic.NetworkIP, external: nic.NatIP})
			}
		}
	}
	return vms
}

// externalIPv6s returns the addresses from which running VMs of a network may reach the internet.
func externalIPv6s(instances []gcesim.Instance, network string) []string {
	var addresses []string
	for _, in := range instances {
		for _, nic := range in.Interfaces() {
			if nic.Network == network && nic.ExternalIPv6 != "" && in.Status == "RUNNING" {
				addresses = append(addresses, nic.ExternalIPv6)
			}
		}
	}
	return addresses
}

// elements renders the elements of a set or map. For an empty one the clause must be missing.
func elements[T any](all []T, write func(T) string) string {
	var written []string
	for _, one := range all {
		written = append(written, write(one))
	}
	if len(written) == 0 {
		return ""
	}
	return "elements = { " + strings.Join(written, ", ") + " }"
}

// ingress renders the rules of a network in Compute Engine's order of evaluation: by priority, and
// deny before allow.
func ingress(snapshot gcesim.Snapshot, network string) string {
	var lines strings.Builder
	for _, rule := range ordered(snapshot.Firewalls) {
		inNetwork := strings.HasSuffix(rule.Network, "/networks/"+network)
		if !inNetwork || rule.Disabled || rule.Direction != "INGRESS" {
			continue
		}
		for _, family := range []family{v4, v6} {
			for _, line := range family.lines(rule, snapshot.Instances, network) {
				fmt.Fprintf(&lines, "\t\t%s comment %q\n", line, rule.Name)
			}
		}
	}
	return lines.String()
}

func ordered(rules []gcesim.Firewall) []gcesim.Firewall {
	return slices.SortedStableFunc(slices.Values(rules), func(a, b gcesim.Firewall) int {
		if a.Priority != b.Priority {
			return int(a.Priority - b.Priority)
		}
		return denyFirst(a) - denyFirst(b)
	})
}

func denyFirst(rule gcesim.Firewall) int {
	if len(rule.Denied) > 0 {
		return 0
	}
	return 1
}

// family is an IP family in nftables' terms.
type family struct {
	keyword  string
	nfproto  string
	icmp     string
	contains func(netip.Addr) bool
}

var (
	v4 = family{"ip", "ipv4", "icmp", netip.Addr.Is4}
	v6 = family{"ip6", "ipv6", "ipv6-icmp", netip.Addr.Is6}
)

// lines renders a rule with one line per protocol, and none if it matches no packet of the family.
func (f family) lines(rule gcesim.Firewall, instances []gcesim.Instance, network string) []string {
	sources, hasSources := f.match("saddr", f.ranges(rule.SourceRanges))
	targets, hasTargets := f.match("daddr", f.targets(rule, instances, network))
	if !hasSources || !hasTargets {
		return nil
	}
	var lines []string
	for _, m := range rule.Denied {
		lines = append(lines, sources+targets+f.protocol(m)+"counter drop")
	}
	for _, m := range rule.Allowed {
		lines = append(lines, sources+targets+f.protocol(m)+"counter accept")
	}
	return lines
}

// match renders a comparison of an address with prefixes; false if there is no prefix to match.
func (f family) match(what string, prefixes []netip.Prefix) (string, bool) {
	if len(prefixes) == 0 {
		return "", false
	}
	if prefixes[0].Bits() == 0 {
		return "meta nfproto " + f.nfproto + " ", true
	}
	var written []string
	for _, p := range prefixes {
		written = append(written, p.String())
	}
	return fmt.Sprintf("%s %s { %s } ", f.keyword, what, strings.Join(written, ", ")), true
}

// ranges parses the ranges of the family, the widest first, without those within another: nftables
// refuses overlaps. Source tags match internal traffic only, which is not filtered here.
func (f family) ranges(written []string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, w := range written {
		p, err := netip.ParsePrefix(w)
		if addr, addrErr := netip.ParseAddr(w); addrErr == nil {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err == nil && f.contains(p.Addr()) {
			parsed = append(parsed, p)
		}
	}
	slices.SortFunc(parsed, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	var wide []netip.Prefix
	for _, p := range parsed {
		if !slices.ContainsFunc(wide, func(w netip.Prefix) bool { return w.Contains(p.Addr()) }) {
			wide = append(wide, p)
		}
	}
	return wide
}

// targets returns the addresses of the VMs to which the rule applies: all of the network, or those
// with one of its tags, that are within its destination ranges.
func (f family) targets(rule gcesim.Firewall, instances []gcesim.Instance, network string) []netip.Prefix {
	var written []string
	for _, in := range instances {
		tagged := slices.ContainsFunc(in.Tags, func(tag string) bool { return slices.Contains(rule.TargetTags, tag) })
		if !tagged && (len(rule.TargetTags) > 0 || len(rule.TargetServiceAccounts) > 0) {
			continue
		}
		for _, nic := range in.Interfaces() {
			if nic.Network != network {
				continue
			}
			if f.isDestination(rule, nic.NetworkIP, nic.NatIP) {
				written = append(written, nic.NetworkIP)
			}
			if f.isDestination(rule, nic.ExternalIPv6) {
				written = append(written, nic.ExternalIPv6)
			}
		}
	}
	return f.ranges(written)
}

// isDestination reports whether the rule applies to packets to a VM that has this address, or this
// pair of an internal and an external address, of which the external one may be empty. It is not
// documented with which address of a pair Compute Engine compares destination ranges. The worse case
// holds here: a rule that allows has to name both, for a rule that denies one is enough.
func (f family) isDestination(rule gcesim.Firewall, addresses ...string) bool {
	if len(rule.DestinationRanges) == 0 {
		return true
	}
	ranges, named, all := f.ranges(rule.DestinationRanges), 0, f.ranges(addresses)
	for _, address := range all {
		if slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(address.Addr()) }) {
			named++
		}
	}
	return named > 0 && (named == len(all) || len(rule.Denied) > 0)
}

// protocol renders the match of protocol and ports.
func (f family) protocol(m gcesim.FirewallMatch) string {
	name := m.IPProtocol
	switch name {
	case "all":
		return ""
	case "icmp":
		name = f.icmp
	case "ipip":
		name = "4"
	}
	if len(m.Ports) == 0 {
		return "meta l4proto " + name + " "
	}
	return fmt.Sprintf("meta l4proto %s th dport { %s } ", name, strings.Join(mergedPorts(m.Ports), ", "))
}

// mergedPorts joins overlapping ranges, which nftables refuses.
func mergedPorts(ports []string) []string {
	type span struct{ from, to uint16 }
	var spans []span
	for _, p := range ports {
		if from, to, ok := gcesim.ParsePorts(p); ok {
			spans = append(spans, span{from, to})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.from) - int(b.from) })
	var merged []span
	for _, s := range spans {
		if last := len(merged) - 1; last >= 0 && int(s.from) <= int(merged[last].to)+1 {
			merged[last].to = max(merged[last].to, s.to)
			continue
		}
		merged = append(merged, s)
	}
	var written []string
	for _, s := range merged {
		written = append(written, fmt.Sprintf("%d-%d", s.from, s.to))
	}
	return written
}
