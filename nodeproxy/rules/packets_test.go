package rules_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// packet is a packet as a rule sees it.
type packet struct {
	protocol string // as in iptables
	source   netip.Addr
	// sourcePort and destinationPort are those in the packet.
	sourcePort, destinationPort uint16
	// tracked is false for an INVALID packet. The rest is what connection tracking knows of it.
	tracked          bool
	originalTo       netip.Addr
	originalPort     uint16
	direction        string
	new, rel, natted bool
}

// trace is what happens to a packet.
type trace struct {
	// verdict is the target that ended its way, or "" at the end of the hook's chain.
	verdict string
	meters  []rules.Meter
	// passed is how many rules were compared, depth how deep the chains were nested, as nf_tables
	// counts: going to a chain nests as jumping does.
	passed, depth int
}

// path is the chains of a hook of a table.
type path struct {
	chains map[string]rules.Chain
	root   rules.Chain
}

func pathOf(ruleset rules.Ruleset, table, hook string) path {
	p := path{chains: map[string]rules.Chain{}}
	for _, chain := range ruleset.Chains {
		if chain.Table == table {
			p.chains[chain.Name] = chain
			if chain.Hook == hook {
				p.root = chain
			}
		}
	}
	return p
}

// send sends a packet through the chains, as the kernel does.
func (way path) send(p packet) (out trace) {
	// walk returns false when the packet returns to the rule after the one that jumped.
	var walk func(chain rules.Chain, depth int) (ended bool)
	walk = func(chain rules.Chain, depth int) bool {
		out.depth = max(out.depth, depth)
		for _, rule := range chain.Rules {
			out.passed++
			matches, command, target := p.matches(rule.Spec)
			if !matches {
				continue
			}
			if rule.Meter != (rules.Meter{}) {
				out.meters = append(out.meters, rule.Meter)
			}
			next, isChain := way.chains[target]
			switch {
			case target == "TCPMSS" || target == "CONNMARK": // they go on to the next rule
			case target == "RETURN":
				return false
			case !isChain:
				out.verdict = target
				return true
			case command == "-g":
				return walk(next, depth+1)
			case walk(next, depth+1):
				return true
			}
		}
		return false
	}
	walk(way.root, 1)
	return out
}

// matches interprets a rule.
func (p packet) matches(spec string) (matches bool, command, target string) {
	words := strings.Fields(spec)
	matches = true
	for i := 0; i < len(words); i += 2 {
		value := words[i+1]
		switch words[i] {
		case "-m":
		case "-p":
			matches = matches && p.protocol == value
		case "-s":
			matches = matches && netip.MustParsePrefix(value).Contains(p.source)
		case "--sport":
			matches = matches && inPorts(value, p.sourcePort)
		case "--dport":
			matches = matches && inPorts(value, p.destinationPort)
		case "--tcp-flags":
			matches = matches && p.new
			i++
		case "--ctorigdst":
			matches = matches && p.tracked && p.originalTo == netip.MustParseAddr(value)
		case "--ctorigdstport":
			matches = matches && p.tracked && inPorts(value, p.originalPort)
		case "--ctdir":
			matches = matches && p.tracked && p.direction == value
		case "--ctstate":
			state := map[string]bool{"INVALID": !p.tracked, "NEW": p.tracked && p.new, "RELATED": p.tracked && p.rel, "DNAT": p.tracked && p.natted}
			matches = matches && state[value]
		case "--connlimit-above", "--connlimit-mask":
			matches = matches && words[i] != "--connlimit-above" // no client has many
		case "--mark":
			matches = false // the connection has one
		case "--connlimit-saddr", "!":
			i--
		case "-j", "-g":
			return matches, words[i], value
		default:
			panic("unknown word " + words[i] + " in " + spec)
		}
	}
	panic("no target in " + spec)
}

func inPorts(ports string, port uint16) bool {
	first, last, isRange := strings.Cut(ports, ":")
	if !isRange {
		last = first
	}
	from, _ := strconv.Atoi(first)
	to, _ := strconv.Atoi(last)
	return from <= int(port) && int(port) <= to
}

// genManyPorts returns ports of all protocols, in runs and scattered.
func genManyPorts(t *rapid.T) []config.Port {
	seen := map[config.Port]bool{}
	for range rapid.IntRange(1, 30).Draw(t, "runs") {
		protocol := rapid.SampledFrom([]string{"TCP", "TCP", "UDP", "SCTP"}).Draw(t, "protocol")
		first := rapid.Uint16Range(1, 60000).Draw(t, "first")
		for i := range rapid.Uint16Range(1, 40).Draw(t, "length") {
			seen[config.Port{Protocol: protocol, Port: first + i}] = true
		}
	}
	var out []config.Port
	for port := range seen {
		out = append(out, port)
	}
	slices.SortFunc(out, func(a, b config.Port) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return out
}

// genAddr returns addresses near each other, so that they share ranges of all lengths.
func genAddr(t *rapid.T, family config.Family) netip.Addr {
	n := rapid.Custom(func(t *rapid.T) byte { return rapid.SampledFrom([]byte{0, 1, 2, 3, 127, 128, 255}).Draw(t, "byte") })
	if family == config.IPv4 {
		return netip.AddrFrom4([4]byte{n.Draw(t, "a"), n.Draw(t, "b"), rapid.Byte().Draw(t, "c"), rapid.Byte().Draw(t, "d")})
	}
	addr := [16]byte{0x20, 1, 0xd, 0xb8}
	for _, i := range []int{0, 5, 7, 8, 12, 15} {
		addr[i] = n.Draw(t, "byte")
	}
	return netip.AddrFrom16(addr)
}

func genRanges(t *rapid.T, family config.Family) (out []string) {
	bits := genAddr(t, family).BitLen()
	shortest := rapid.SampledFrom([]int{0, 1, 8, bits / 2}).Draw(t, "shortest")
	for range rapid.IntRange(0, 120).Draw(t, "ranges") {
		prefix := netip.PrefixFrom(genAddr(t, family), rapid.IntRange(shortest, bits).Draw(t, "bits"))
		out = append(out, prefix.Masked().String())
	}
	return out
}

// genPacket returns a packet that is likely to concern the config.
func genPacket(t *rapid.T, c config.Config, family config.Family, pod []netip.Addr) packet {
	port := rapid.SampledFrom(c.Ports).Draw(t, "port")
	p := packet{
		protocol:     strings.ToLower(port.Protocol),
		tracked:      rapid.IntRange(0, 9).Draw(t, "tracked") > 0,
		originalTo:   rapid.SampledFrom(append(pod, netip.MustParseAddr("10.9.9.9"))).Draw(t, "to"),
		originalPort: port.Port + rapid.SampledFrom([]uint16{0, 0, 0, 1, 65535}).Draw(t, "near"),
		direction:    rapid.SampledFrom([]string{"ORIGINAL", "REPLY"}).Draw(t, "direction"),
		new:          rapid.Bool().Draw(t, "new"),
	}
	if rapid.IntRange(0, 9).Draw(t, "other protocol") == 0 {
		p.protocol = rapid.SampledFrom([]string{"tcp", "udp", "sctp", "gre"}).Draw(t, "protocol")
	}
	p.source = genAddr(t, family)
	if own := c.Sources(family); len(own) > 0 && rapid.Bool().Draw(t, "from a range") {
		p.source = rapid.SampledFrom(own).Draw(t, "range").Addr()
		if rapid.IntRange(0, 3).Draw(t, "before it") == 0 && p.source.Prev().IsValid() {
			p.source = p.source.Prev()
		}
	}
	p.sourcePort, p.destinationPort = p.originalPort, p.originalPort
	return p
}

func TestPacketsAreAcceptedTranslatedAndCountedByPortAndSource(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		family := rapid.SampledFrom(config.Families).Draw(t, "family")
		pod := map[config.Family][]netip.Addr{config.IPv4: {pod4}, config.IPv6: {pod6, netip.MustParseAddr("fd00:1::6")}}[family]
		c := config.Config{Ports: genManyPorts(t), ClusterIPs: []string{"10.96.0.7", "fd00:96::7"}, SourceRanges: genRanges(t, family)}
		c.MaxConnectionsPerClient = rapid.IntRange(0, 1).Draw(t, "limit per client")
		ruleset := rules.Wanted(c, family, []netip.Addr{pod4, pod6, netip.MustParseAddr("fd00:1::6")})
		sources := c.Sources(family)
		forward, prerouting := pathOf(ruleset, "filter", "FORWARD"), pathOf(ruleset, "nat", "PREROUTING")
		for range 50 {
			p := genPacket(t, c, family, pod)
			port := config.Port{Protocol: strings.ToUpper(p.protocol), Port: p.originalPort}
			ours := p.tracked && slices.Contains(pod, p.originalTo) && slices.Contains(c.Ports, port)
			allowed := slices.ContainsFunc(sources, func(r netip.Prefix) bool { return r.Contains(p.source) })
			verdict, meters := "DROP", []rules.Meter(nil)
			if ours && (p.direction == "REPLY" || allowed) {
				verdict = "ACCEPT"
			}
			if ours {
				meters = []rules.Meter{{Port: port, Kind: map[string]rules.Kind{"ORIGINAL": rules.In, "REPLY": rules.Out}[p.direction]}}
			}
			got := forward.send(p)
			if got.verdict != verdict || cmp.Diff(meters, got.meters) != "" {
				t.Fatalf("forwarding %+v: got %+v, want %s and %v", p, got, verdict, meters)
			}
			verdict, meters = "", nil
			if ours {
				verdict, meters = "DNAT", []rules.Meter{{Port: port, Kind: rules.Connections}}
			}
			if got := prerouting.send(p); got.verdict != verdict || cmp.Diff(meters, got.meters) != "" {
				t.Fatalf("translating %+v: got %+v, want %q and %v", p, got, verdict, meters)
			}
		}
	})
}

func TestAPacketIsNotAcceptedWhereItsPortWasRewritten(t *testing.T) {
	c := config.Config{Ports: []config.Port{{Protocol: "TCP", Port: 80}}, ClusterIPs: []string{"10.96.0.7"}, SourceRanges: []string{"0.0.0.0/0"}}
	forward := pathOf(rules.Wanted(c, config.IPv4, []netip.Addr{pod4}), "filter", "FORWARD")
	for _, direction := range []string{"ORIGINAL", "REPLY"} {
		for _, p := range []packet{{originalPort: 22, sourcePort: 80, destinationPort: 80}, {originalPort: 80, sourcePort: 22, destinationPort: 22}} {
			p.protocol, p.tracked, p.originalTo, p.direction, p.source = "tcp", true, pod4, direction, netip.MustParseAddr("192.0.2.1")
			if got := forward.send(p); got.verdict != "DROP" {
				t.Errorf("%+v: %+v", p, got)
			}
		}
	}
}

// worstRanges returns n disjoint ranges that no prefix halves: each is half of what is left.
func worstRanges(n int) (out []string) {
	for i := range n {
		addr := [16]byte{0x20, 1}
		addr[2+i/8] = 1 << (7 - i%8)
		out = append(out, netip.PrefixFrom(netip.AddrFrom16(addr), 16+i+1).String())
	}
	return out
}

// spread returns n disjoint ranges of a family.
func spread(n int, family config.Family) (out []string) {
	for i := range n {
		if family == config.IPv4 {
			out = append(out, fmt.Sprintf("10.%d.%d.0/25", i/256, i%256))
		} else {
			out = append(out, fmt.Sprintf("2001:db8:%x::/48", 2*i))
		}
	}
	return out
}

func TestTheRulesThatAPacketPassesGrowWithTheLogarithmOfPortsAndRanges(t *testing.T) {
	for name, tc := range map[string]struct {
		ports  int
		ranges []string
	}{
		"one port and range":        {1, spread(1, config.IPv6)},
		"100 ports":                 {100, spread(1, config.IPv6)},
		"1,000 ports":               {1000, spread(1, config.IPv6)},
		"500 ranges":                {1, spread(500, config.IPv6)},
		"5,000 ranges":              {1, spread(5000, config.IPv6)},
		"1,000 ports, 5,000 ranges": {1000, spread(5000, config.IPv6)},
		"the most unequal ranges":   {1, worstRanges(110)},
	} {
		t.Run(name, func(t *testing.T) {
			c := config.Config{ClusterIPs: []string{"fd00:96::7"}, SourceRanges: tc.ranges, MaxConnectionsPerClient: 1}
			for i := range tc.ports {
				c.Ports = append(c.Ports, config.Port{Protocol: "TCP", Port: uint16(1000 + 2*i)})
			}
			ruleset := rules.ShutdownReset(c, config.IPv6, []netip.Addr{pod6})
			forward, worst := pathOf(ruleset, "filter", "FORWARD"), trace{}
			pass := func(port config.Port, source netip.Addr) {
				p := packet{protocol: "tcp", source: source, sourcePort: port.Port, destinationPort: port.Port, tracked: true, originalTo: pod6, originalPort: port.Port}
				for _, p.direction = range []string{"ORIGINAL", "REPLY"} {
					got := forward.send(p)
					worst.passed, worst.depth = max(worst.passed, got.passed), max(worst.depth, got.depth)
				}
			}
			for _, port := range c.Ports {
				pass(port, netip.MustParseAddr("::1"))
			}
			for _, r := range c.Sources(config.IPv6) {
				pass(c.Ports[len(c.Ports)-1], r.Addr())
				pass(c.Ports[len(c.Ports)-1], r.Addr().Prev())
			}
			// A level of the tree has at most 9 rules and an eighth of the ports, or three eighths of
			// the ranges.
			levels := 2 + math.Log(float64(tc.ports))/math.Log(8) + math.Log(float64(len(tc.ranges)))/math.Log(8./3)
			if limit := 9 + 9*levels; float64(worst.passed) > limit {
				t.Errorf("a packet passes %d rules, want at most %.0f", worst.passed, limit)
			}
			if worst.depth >= 16 {
				t.Errorf("chains are nested %d deep, which nf_tables does not allow", worst.depth)
			}
			t.Logf("at most %d rules, %d deep, in %d chains", worst.passed, worst.depth, len(ruleset.Chains))
			for _, chain := range ruleset.Chains {
				if len(chain.Name) > 28 {
					t.Errorf("the name %s is too long", chain.Name)
				}
			}
		})
	}
}
