package rules

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// fanout is how many ports or source ranges a chain has at most. Of more than that, chains make a
// tree, so that a packet passes few rules. With a smaller fanout it passes fewer of them, but more
// chains: nf_tables allows chains to be nested 16 deep (NFT_JUMP_STACK_SIZE), and the worst source
// ranges divide unevenly.
const fanout = 8

// tree makes the chains that lead a packet to the rules of the one item that it matches, out of many
// that exclude each other.
type tree[T any] struct {
	// root is the first chain, without its rules. The names of the others begin with its name.
	root Chain
	// rules returns the rules of an item.
	rules func(item T) []Rule
	// divide divides more than fanout items into 2 to fanout branches. A packet belongs to the first
	// that it matches.
	divide func(items []T) []branch[T]
	// end are the rules of packets that match no item. Without any, they return to the rule after the
	// one that jumped to the root.
	end []Rule
}

// branch is a part of a tree's items.
type branch[T any] struct {
	// match is what all packets of the items match.
	match string
	items []T
}

// chains returns the chains for the items, the root first.
func (t tree[T]) chains(items []T) []Chain {
	var all []Chain
	var grow func(chain Chain, items []T)
	grow = func(chain Chain, items []T) {
		at := len(all)
		all = append(all, chain)
		var list []Rule
		branches := []branch[T]{}
		if len(items) > fanout {
			branches = t.divide(items)
		} else {
			for i := range items {
				branches = append(branches, branch[T]{items: items[i : i+1]})
			}
		}
		for _, b := range branches {
			if len(b.items) == 1 {
				list = append(list, t.rules(b.items[0])...)
				continue
			}
			child := Chain{Table: t.root.Table, Name: fmt.Sprintf("%s-%d", t.root.Name, len(all))}
			list = append(list, rule("%s -g %s", b.match, child.Name))
			grow(child, b.items)
		}
		all[at].Rules = append(list, t.end...)
	}
	grow(t.root, items)
	return all
}

// dividePorts divides sorted ports by protocol, and those of one protocol into runs of equal length.
func dividePorts(ports []config.Port, field portField) (out []branch[config.Port]) {
	if first := ports[0].Protocol; first != ports[len(ports)-1].Protocol {
		for len(ports) > 0 {
			protocol, end := ports[0].Protocol, len(ports)
			if i := slices.IndexFunc(ports, func(p config.Port) bool { return p.Protocol != protocol }); i >= 0 {
				end = i
			}
			out = append(out, branch[config.Port]{"-p " + strings.ToLower(protocol), ports[:end]})
			ports = ports[end:]
		}
		return out
	}
	runs := min(fanout, (len(ports)+fanout-1)/fanout)
	for run := range slices.Chunk(ports, (len(ports)+runs-1)/runs) {
		out = append(out, branch[config.Port]{portMatch(run[0].Protocol, field, run[0].Port, run[len(run)-1].Port), run})
	}
	return out
}

// portField is which port of a packet is that of the Service.
type portField string

const (
	// destinationPort is it in packets from clients, as DNAT does not change it.
	destinationPort portField = "dport"
	// sourcePort is it in packets to clients.
	sourcePort portField = "sport"
)

// portMatch returns the match of a protocol and a range of ports, in the packet itself where the
// kernel can do so: many kernels have no match for SCTP, so its port is matched as the connection's.
func portMatch(protocol string, field portField, first, last uint16) string {
	ports := fmt.Sprint(first)
	if last != first {
		ports = fmt.Sprintf("%d:%d", first, last)
	}
	name := strings.ToLower(protocol)
	if protocol == "SCTP" {
		return fmt.Sprintf("-p %s -m conntrack --ctorigdstport %s", name, ports)
	}
	return fmt.Sprintf("-p %s -m %s --%s %s", name, name, field, ports)
}

// sortedPorts returns the ports by protocol and number.
func sortedPorts(ports []config.Port) []config.Port {
	return slices.SortedFunc(slices.Values(ports), func(a, b config.Port) int {
		return cmp.Or(strings.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
}

// disjoint returns the ranges in the order of their addresses, without those within another.
func disjoint(ranges []netip.Prefix) (out []netip.Prefix) {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, r := range sorted {
		if len(out) == 0 || !out[len(out)-1].Overlaps(r) {
			out = append(out, r)
		}
	}
	return out
}

// divideRanges divides disjoint, sorted source ranges. Each branch but the last is matched by a
// prefix, which can contain those of earlier branches, and the last is what is left. It divides the
// largest branch first, each time at a prefix that has a third to two thirds of its ranges. So a
// branch gets at most 3/fanout of them, however they are spread.
func divideRanges(ranges []netip.Prefix) []branch[netip.Prefix] {
	out := []branch[netip.Prefix]{{items: ranges}}
	for len(out) < fanout {
		at := 0
		for i := range out {
			if len(out[i].items) > len(out[at].items) {
				at = i
			}
		}
		prefix, from, to := middle(out[at].items)
		inside := branch[netip.Prefix]{sourceMatch(prefix), out[at].items[from:to]}
		out[at].items = slices.Concat(out[at].items[:from], out[at].items[to:])
		out = slices.Insert(out, at, inside)
	}
	return out
}

// middle returns a prefix that contains at least a third and at most two thirds of two or more
// disjoint, sorted ranges, and which ones.
func middle(ranges []netip.Prefix) (prefix netip.Prefix, from, to int) {
	to = len(ranges)
	for 3*(to-from) > 2*len(ranges) {
		// One bit more than all have in common divides them; take the larger part.
		common := commonBits(ranges[from], ranges[to-1])
		upper := from + sort.Search(to-from, func(i int) bool { return commonBits(ranges[from], ranges[from+i]) <= common })
		if upper-from > to-upper {
			to = upper
		} else {
			from = upper
		}
	}
	prefix, _ = ranges[from].Addr().Prefix(commonBits(ranges[from], ranges[to-1]))
	return prefix, from, to
}

// commonBits returns how many bits two ranges of one IP family have in common.
func commonBits(a, b netip.Prefix) int {
	x, y := a.Addr().AsSlice(), b.Addr().AsSlice()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return min(a.Bits(), b.Bits(), 8*i+bits.LeadingZeros8(d))
		}
	}
	return min(a.Bits(), b.Bits())
}
