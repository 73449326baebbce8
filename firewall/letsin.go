package firewall

import (
	"net/netip"
	"slices"
)

// LetsIn says whether rules, all those of a network, let in everything that
// want lets in. It errs on the side of no: ranges of several rules are not
// pieced together, and rules that go by service accounts, source tags or
// destinations do not count. everyTag is as in Unmet.
func LetsIn(rules []Rule, want Rule, everyTag bool) bool {
	for _, source := range want.SourceRanges {
		var open []Allow
		for _, r := range rules {
			if r.admits(want, source, everyTag) && !slices.ContainsFunc(rules, func(d Rule) bool { return d.overrules(r, want, source) }) {
				open = append(open, r.Allowed...)
			}
		}
		open = Merge(open)
		for _, wanted := range Merge(want.Allowed) {
			if !slices.ContainsFunc(open, func(o Allow) bool { return o.covers(wanted) }) {
				return false
			}
		}
	}
	return true
}

// admits says whether the rule speaks of all of want's nodes and of all
// clients in the range source.
func (r Rule) admits(want Rule, source string, everyTag bool) bool {
	if r.Disabled || r.Direction != Ingress || r.Network != want.Network || len(r.Allowed) == 0 ||
		len(r.DestinationRanges)+len(r.TargetServiceAccounts) > 0 {
		return false
	}
	return r.reaches(want, everyTag) && slices.ContainsFunc(r.SourceRanges, func(s string) bool { return contains(s, source) })
}

func (r Rule) reaches(want Rule, everyTag bool) bool {
	has := func(tag string) bool { return slices.Contains(r.TargetTags, tag) }
	if len(r.TargetTags) == 0 || everyTag && slices.ContainsFunc(want.TargetTags, has) {
		return true
	}
	return !slices.ContainsFunc(want.TargetTags, func(tag string) bool { return !has(tag) })
}

// overrules says whether the rule may deny some of what want lets in from
// source before, or together with, the rule allowing it.
func (r Rule) overrules(allowing, want Rule, source string) bool {
	if r.Disabled || r.Direction != Ingress || r.Network != want.Network || r.Priority > allowing.Priority {
		return false
	}
	meets := len(r.SourceRanges) == 0 || slices.ContainsFunc(r.SourceRanges, func(s string) bool { return contains(s, source) || contains(source, s) })
	return meets && slices.ContainsFunc(r.Denied, func(d Allow) bool {
		return slices.ContainsFunc(want.Allowed, d.overlaps)
	})
}

// contains says whether outer holds all of inner.
func contains(outer, inner string) bool {
	o, errOuter := netip.ParsePrefix(outer)
	i, errInner := netip.ParsePrefix(inner)
	return errOuter == nil && errInner == nil && o.Bits() <= i.Bits() && o.Contains(i.Addr())
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
