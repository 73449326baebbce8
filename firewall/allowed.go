package firewall

import (
	"cmp"
	"net/netip"
	"slices"
)

// AlreadyAllowed reports whether rules, all those of a network, already allow
// everything that want allows: each of its packets to each of its nodes, by any
// of the rules. If that cannot be known the answer is false: a deny rule counts
// for all nodes whatever its targets, and rules that allow by service account or
// source tag do not count. nodeTags are as in Target. Each destination of want is
// decided by itself, so both addresses of a translated pair have to be allowed.
func AlreadyAllowed(rules []Rule, want Rule, nodeTags [][]string) bool {
	for _, tags := range nodeTags {
		effective := effectiveRules(rules, want.Network, tags)
		for _, destination := range distinguished(want, effective) {
			here := slices.DeleteFunc(slices.Clone(effective), func(r effectiveRule) bool { return !r.appliesToDestination(destination) })
			for _, source := range want.SourceRanges {
				prefix, err := netip.ParsePrefix(source)
				if err != nil || !allowedFrom(prefix.Masked(), Merge(want.Allowed), here) {
					return false
				}
			}
		}
	}
	return true
}

// distinguished returns the destinations of want, but only one of them if the
// rules do not tell them apart. An invalid Prefix stands for every destination.
func distinguished(want Rule, rules []effectiveRule) []netip.Prefix {
	destinations := parsePrefixes(want.DestinationRanges)
	if len(destinations) == 0 || len(destinations) < len(want.DestinationRanges) {
		return []netip.Prefix{{}}
	}
	if !slices.ContainsFunc(rules, func(r effectiveRule) bool { return len(r.DestinationRanges) > 0 }) {
		return destinations[:1]
	}
	return destinations
}

// effectiveRule is a rule that applies to the nodes in question.
type effectiveRule struct {
	Rule
	// sources are the ranges it applies to, unless it applies to anySource.
	sources   []netip.Prefix
	anySource bool
	// destinations are its DestinationRanges.
	destinations []netip.Prefix
}

// effectiveRules returns the rules for nodes with these tags in the order in
// which they are evaluated: by priority, deny rules before allow rules.
func effectiveRules(rules []Rule, network string, tags []string) []effectiveRule {
	var effective []effectiveRule
	for _, r := range rules {
		denies := len(r.Denied) > 0
		if r.Disabled || r.Direction != Ingress || r.Network != network || !denies && !r.appliesTo(tags) {
			continue
		}
		e := effectiveRule{Rule: r, sources: parsePrefixes(r.SourceRanges), destinations: parsePrefixes(r.DestinationRanges)}
		// Clients with the tag or service account may have any address.
		e.anySource = denies && (len(e.sources) == 0 || len(r.SourceTags)+len(r.SourceServiceAccounts) > 0)
		effective = append(effective, e)
	}
	slices.SortStableFunc(effective, func(a, b effectiveRule) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), len(b.Denied)-len(a.Denied))
	})
	return effective
}

// parsePrefixes leaves out what is no prefix.
func parsePrefixes(written []string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, w := range written {
		if prefix, err := netip.ParsePrefix(w); err == nil {
			parsed = append(parsed, prefix.Masked())
		}
	}
	return parsed
}

// appliesTo reports whether the rule applies to all nodes that have the tags.
func (r Rule) appliesTo(tags []string) bool {
	if len(r.TargetServiceAccounts) > 0 {
		return false
	}
	return len(r.TargetTags) == 0 || slices.ContainsFunc(tags, func(tag string) bool { return slices.Contains(r.TargetTags, tag) })
}

// appliesToDestination reports whether a rule that allows applies to all of the
// destination, and a rule that denies to any part of it.
func (r effectiveRule) appliesToDestination(destination netip.Prefix) bool {
	denies := len(r.Denied) > 0
	switch {
	case len(r.DestinationRanges) == 0:
		return true
	case !destination.IsValid() || len(r.destinations) < len(r.DestinationRanges):
		return denies
	}
	return slices.ContainsFunc(r.destinations, func(d netip.Prefix) bool {
		return denies && d.Overlaps(destination) || d.Bits() <= destination.Bits() && d.Contains(destination.Addr())
	})
}

// allowedFrom reports whether the rules allow wanted from all of source. If that
// depends on rules that apply to a part of source only, it decides for each half
// of source by itself: the number of steps grows with the number of ranges in
// the rules, not with the size of source.
func allowedFrom(source netip.Prefix, wanted []Allow, rules []effectiveRule) bool {
	rules = slices.DeleteFunc(slices.Clone(rules), func(r effectiveRule) bool { return !r.appliesToPartOf(source) })
	if evaluate(rules, source, wanted, false) {
		return true // Even if partial denials held for all of source.
	}
	if !evaluate(rules, source, wanted, true) {
		return false // Even if partial permissions held for all of source.
	}
	// Only a range of more than one address gets here.
	bits, last := source.Bits(), source.Addr().AsSlice()
	last[bits/8] |= 0x80 >> (bits % 8)
	upper, _ := netip.AddrFromSlice(last)
	return allowedFrom(netip.PrefixFrom(source.Addr(), bits+1), wanted, rules) && allowedFrom(netip.PrefixFrom(upper, bits+1), wanted, rules)
}

// evaluate reports whether the rules allow wanted. Of rules that apply to a part
// of source only, it uses either those that allow (optimistic) or those that
// deny.
func evaluate(rules []effectiveRule, source netip.Prefix, wanted []Allow, optimistic bool) bool {
	for _, r := range rules {
		toAll := r.appliesToAllOf(source)
		if (toAll || !optimistic) && slices.ContainsFunc(r.Denied, func(d Allow) bool { return slices.ContainsFunc(wanted, d.overlaps) }) {
			return false
		}
		if toAll || optimistic {
			wanted = subtract(wanted, r.Allowed)
		}
	}
	return len(wanted) == 0
}

func (r effectiveRule) appliesToAllOf(source netip.Prefix) bool {
	return r.anySource || slices.ContainsFunc(r.sources, func(s netip.Prefix) bool {
		return s.Bits() <= source.Bits() && s.Contains(source.Addr())
	})
}

func (r effectiveRule) appliesToPartOf(source netip.Prefix) bool {
	return r.anySource || slices.ContainsFunc(r.sources, source.Overlaps)
}
