package firewall

import (
	"cmp"
	"net/netip"
	"slices"
)

// LetsIn says whether rules, all those of a network, let in everything that
// want lets in: each of its packets to each of its nodes, by whichever of the
// rules. It errs on the side of no: a deny rule counts for all nodes, whatever
// its targets, and rules that allow by service accounts, source tags or
// destinations do not count. everyTag is as in Unmet.
func LetsIn(rules []Rule, want Rule, everyTag bool) bool {
	bearers := [][]string{want.TargetTags}
	if !everyTag { // There may be a node for each that bears no other.
		bearers = slices.Collect(slices.Chunk(want.TargetTags, 1))
	}
	return !slices.ContainsFunc(bearers, func(tags []string) bool {
		inOrder := judgesOf(rules, want.Network, tags)
		return slices.ContainsFunc(want.SourceRanges, func(source string) bool {
			prefix, err := netip.ParsePrefix(source)
			return err != nil || !letAllIn(inOrder, prefix.Masked(), Merge(want.Allowed))
		})
	})
}

// judge is a rule that applies to the nodes in question.
type judge struct {
	Rule
	// sources are the ranges it applies to. anybody: it may apply to all.
	sources []netip.Prefix
	anybody bool
}

// judgesOf returns the rules for nodes with these tags in the order in which
// they have a say: by priority, and what denies before what allows.
func judgesOf(rules []Rule, network string, tags []string) []judge {
	var judges []judge
	for _, r := range rules {
		if r.Disabled || r.Direction != Ingress || r.Network != network || !r.denies() && !r.allowsFor(tags) {
			continue
		}
		j := judge{Rule: r}
		for _, s := range r.SourceRanges {
			if prefix, err := netip.ParsePrefix(s); err == nil {
				j.sources = append(j.sources, prefix.Masked())
			}
		}
		// By a tag or account it may deny anybody.
		j.anybody = r.denies() && len(r.SourceTags)+len(r.SourceServiceAccounts) > 0 || r.denies() && len(j.sources) == 0
		judges = append(judges, j)
	}
	slices.SortStableFunc(judges, func(a, b judge) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), len(b.Denied)-len(a.Denied))
	})
	return judges
}

func (r Rule) denies() bool { return len(r.Denied) > 0 }

// allowsFor says whether the rule speaks of all nodes that bear the tags.
func (r Rule) allowsFor(tags []string) bool {
	if len(r.DestinationRanges)+len(r.TargetServiceAccounts) > 0 {
		return false
	}
	return len(r.TargetTags) == 0 || slices.ContainsFunc(tags, func(tag string) bool { return slices.Contains(r.TargetTags, tag) })
}

// letAllIn says whether the rules let wanted in from all of source. Where that
// hangs on rules that apply to a part of it only, each half is judged by itself.
func letAllIn(inOrder []judge, source netip.Prefix, wanted []Allow) bool {
	var concerned []judge
	for _, j := range inOrder {
		if j.knows(source) || j.knowsPartOf(source) {
			concerned = append(concerned, j)
		}
	}
	if passes(concerned, source, wanted, false) {
		return true // Even if all of source were denied what a part of it is.
	}
	if !passes(concerned, source, wanted, true) {
		return false // Even if all of source were allowed what a part of it is.
	}
	low, high := halves(source)
	return letAllIn(concerned, low, wanted) && letAllIn(concerned, high, wanted)
}

// passes takes rules that apply to a part of source for the better, or for the
// worse.
func passes(inOrder []judge, source netip.Prefix, wanted []Allow, better bool) bool {
	for _, j := range inOrder {
		all := j.knows(source)
		if (all || !better) && slices.ContainsFunc(j.Denied, func(d Allow) bool { return slices.ContainsFunc(wanted, d.overlaps) }) {
			return false
		}
		if all || better {
			wanted = without(wanted, j.Allowed)
		}
	}
	return len(wanted) == 0
}

// knows says whether the rule applies to all of source.
func (j judge) knows(source netip.Prefix) bool {
	return j.anybody || slices.ContainsFunc(j.sources, func(s netip.Prefix) bool {
		return s.Bits() <= source.Bits() && s.Contains(source.Addr())
	})
}

// knowsPartOf says whether it applies to some of source.
func (j judge) knowsPartOf(source netip.Prefix) bool {
	return slices.ContainsFunc(j.sources, source.Overlaps)
}

// halves splits a range of more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	last := p.Addr().AsSlice()
	last[bits/8] |= 0x80 >> (bits % 8)
	addr, _ := netip.AddrFromSlice(last)
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(addr, bits+1)
}

// without returns what of allows is left when taken are gone.
func without(allows, taken []Allow) []Allow {
	for _, t := range taken {
		var left []Allow
		for _, a := range allows {
			left = append(left, a.without(t)...)
		}
		allows = left
	}
	return allows
}

func (a Allow) without(b Allow) []Allow {
	switch {
	case b.covers(a):
		return nil
	case a.Protocol != b.Protocol || !a.overlaps(b):
		return []Allow{a}
	}
	if everyPort(a) {
		a.From, a.To = 1, 65535
	}
	var left []Allow
	if a.From < b.From {
		left = append(left, Allow{a.Protocol, a.From, b.From - 1})
	}
	if b.To < a.To {
		left = append(left, Allow{a.Protocol, b.To + 1, a.To})
	}
	return left
}

func (a Allow) covers(b Allow) bool {
	if a.Protocol == "all" {
		return true
	}
	return a.Protocol == b.Protocol && (everyPort(a) || !everyPort(b) && a.From <= b.From && b.To <= a.To)
}

func (a Allow) overlaps(b Allow) bool {
	if a.Protocol == "all" || b.Protocol == "all" {
		return true
	}
	return a.Protocol == b.Protocol && (everyPort(a) || everyPort(b) || a.From <= b.To && b.From <= a.To)
}
