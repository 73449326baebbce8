package firewall

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// manualRule is an administrator's rule that allows what wanted does, and more.
func manualRule() Rule {
	return Rule{
		Name: "manual", Network: "vpc", Direction: Ingress, Priority: 1000,
		Allowed: []Allow{{"tcp", 1, 1000}, {"udp", 0, 0}}, SourceRanges: []string{"0.0.0.0/0"}, TargetTags: []string{"node"},
	}
}

func deny(priority int64, what Allow, source string) Rule {
	return Rule{Name: "deny", Network: "vpc", Direction: Ingress, Priority: priority, Denied: []Allow{what}, SourceRanges: []string{source}}
}

func denyTo(destinations ...string) Rule {
	r := deny(1000, Allow{"all", 0, 0}, "0.0.0.0/0")
	r.DestinationRanges = destinations
	return r
}

func TestWhatOtherRulesAlreadyAllow(t *testing.T) {
	edited := func(edit func(*Rule)) []Rule { r := manualRule(); edit(&r); return []Rule{r} }
	for name, c := range map[string]struct {
		rules []Rule
		want  bool
	}{
		"nothing":                                {nil, false},
		"a wider rule":                           {[]Rule{manualRule()}, true},
		"for all nodes":                          {edited(func(r *Rule) { r.TargetTags = nil }), true},
		"all protocols":                          {edited(func(r *Rule) { r.Allowed = []Allow{{"all", 0, 0}} }), true},
		"from more ranges":                       {edited(func(r *Rule) { r.SourceRanges = []string{"10.0.0.0/8", "0.0.0.0/0"} }), true},
		"disabled":                               {edited(func(r *Rule) { r.Disabled = true }), false},
		"for egress":                             {edited(func(r *Rule) { r.Direction = Egress }), false},
		"in another network":                     {edited(func(r *Rule) { r.Network = "other" }), false},
		"for other nodes":                        {edited(func(r *Rule) { r.TargetTags = []string{"db"} }), false},
		"for service accounts":                   {edited(func(r *Rule) { r.TargetTags, r.TargetServiceAccounts = nil, []string{"x"} }), false},
		"to one address of a pair":               {edited(func(r *Rule) { r.DestinationRanges = []string{"10.0.0.1/32"} }), false},
		"to both addresses":                      {edited(func(r *Rule) { r.DestinationRanges = []string{"10.0.0.0/8", "203.0.113.1/32"} }), true},
		"to each address by another rule":        {[]Rule{edited(func(r *Rule) { r.DestinationRanges = []string{"10.0.0.1/32"} })[0], edited(func(r *Rule) { r.DestinationRanges = []string{"203.0.113.0/24"} })[0]}, true},
		"to other addresses":                     {edited(func(r *Rule) { r.DestinationRanges = []string{"10.0.0.2/32", "203.0.113.2/32"} }), false},
		"an address of a load balancer denied":   {[]Rule{manualRule(), denyTo("203.0.113.2/32")}, true},
		"an internal address denied":             {[]Rule{manualRule(), denyTo("10.0.0.0/24")}, false},
		"an external address denied":             {[]Rule{manualRule(), denyTo("203.0.113.1/32")}, false},
		"an unreadable destination denied":       {[]Rule{manualRule(), denyTo("203.0.113.2/32", "here")}, false},
		"to an unreadable destination":           {edited(func(r *Rule) { r.DestinationRanges = []string{"0.0.0.0/0", "here"} }), false},
		"from tags only":                         {edited(func(r *Rule) { r.SourceRanges, r.SourceTags = nil, []string{"x"} }), false},
		"from fewer":                             {edited(func(r *Rule) { r.SourceRanges = []string{"0.0.0.0/1"} }), false},
		"not all ports":                          {edited(func(r *Rule) { r.Allowed[0].To = 442 }), false},
		"not all protocols":                      {edited(func(r *Rule) { r.Allowed = r.Allowed[:1] }), false},
		"two rules together":                     {[]Rule{edited(func(r *Rule) { r.Allowed = r.Allowed[:1] })[0], edited(func(r *Rule) { r.Allowed = r.Allowed[1:] })[0]}, true},
		"ranges of two rules together":           {[]Rule{edited(func(r *Rule) { r.SourceRanges = []string{"0.0.0.0/1"} })[0], edited(func(r *Rule) { r.SourceRanges = []string{"128.0.0.0/1"} })[0]}, true},
		"a gap between the ranges":               {[]Rule{edited(func(r *Rule) { r.SourceRanges = []string{"0.0.0.0/1"} })[0], edited(func(r *Rule) { r.SourceRanges = []string{"192.0.0.0/2"} })[0]}, false},
		"ports of two rules together":            {[]Rule{edited(func(r *Rule) { r.Allowed[0].To = 100 })[0], edited(func(r *Rule) { r.Allowed[0].From = 100 })[0]}, true},
		"denied by service account":              {[]Rule{manualRule(), {Network: "vpc", Direction: Ingress, Priority: 1, Denied: []Allow{{"all", 0, 0}}, SourceServiceAccounts: []string{"x"}}}, false},
		"allowed before a part is denied":        {[]Rule{edited(func(r *Rule) { r.Priority, r.SourceRanges = 1, []string{"10.0.0.0/8"} })[0], manualRule(), deny(2, Allow{"tcp", 443, 443}, "10.1.0.0/16")}, true},
		"a part denied that is allowed too late": {[]Rule{edited(func(r *Rule) { r.Priority, r.SourceRanges = 1, []string{"10.1.0.0/17"} })[0], manualRule(), deny(2, Allow{"tcp", 443, 443}, "10.1.0.0/16")}, false},
		"denied first":                           {[]Rule{manualRule(), deny(1, Allow{"tcp", 443, 443}, "10.0.0.0/8")}, false},
		"denied with the same priority":          {[]Rule{manualRule(), deny(1000, Allow{"all", 0, 0}, "0.0.0.0/0")}, false},
		"denied later":                           {[]Rule{manualRule(), deny(1001, Allow{"all", 0, 0}, "0.0.0.0/0")}, true},
		"something else denied":                  {[]Rule{manualRule(), deny(1, Allow{"tcp", 22, 22}, "0.0.0.0/0")}, true},
		"clients of another network denied":      {[]Rule{manualRule(), deny(1, Allow{"tcp", 443, 443}, "2001:db8::/32")}, true},
	} {
		if got := AlreadyAllowed(c.rules, wanted(t), target.NodeTags); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

type packet struct {
	from     netip.Addr
	protocol string
	port     uint16
	to       []string // The node's tags.
	at       netip.Addr
}

func (r Rule) matches(p packet, entries []Allow) bool {
	from := slices.ContainsFunc(r.SourceRanges, func(s string) bool { return netip.MustParsePrefix(s).Contains(p.from) })
	to := len(r.TargetTags) == 0 || slices.ContainsFunc(r.TargetTags, func(tag string) bool { return slices.Contains(p.to, tag) })
	at := len(r.DestinationRanges) == 0 || slices.ContainsFunc(r.DestinationRanges, func(d string) bool { return netip.MustParsePrefix(d).Contains(p.at) })
	return from && to && at && slices.ContainsFunc(entries, func(a Allow) bool { return a.covers(Allow{p.protocol, p.port, p.port}) })
}

// allowed evaluates the rules for one packet as the documentation of GCE defines:
// the matching rule with the smallest priority decides, of several with the same
// priority one that denies. Without a matching rule the packet is denied.
func allowed(rules []Rule, p packet) bool {
	for priority := int64(0); priority <= 3; priority++ {
		here := func(entries func(Rule) []Allow) bool {
			return slices.ContainsFunc(rules, func(r Rule) bool { return r.Priority == priority && r.matches(p, entries(r)) })
		}
		if here(func(r Rule) []Allow { return r.Denied }) {
			return false
		}
		if here(func(r Rule) []Allow { return r.Allowed }) {
			return true
		}
	}
	return false
}

func TestAlreadyAllowedAgreesWithTheEvaluationOfEveryPacket(t *testing.T) {
	source := rapid.SampledFrom([]string{"10.0.0.0/28", "10.0.0.0/29", "10.0.0.8/29", "10.0.0.8/30", "10.0.0.12/30", "10.0.0.0/30", "10.0.0.5/32", "0.0.0.0/0"})
	entry := rapid.Custom(func(t *rapid.T) Allow {
		a := Allow{Protocol: rapid.SampledFrom([]string{"tcp", "tcp", "tcp", "udp", "all"}).Draw(t, "protocol")}
		if a.Protocol != "all" && rapid.IntRange(0, 5).Draw(t, "every port") > 0 {
			a.From = rapid.Uint16Range(1, 4).Draw(t, "from")
			a.To = a.From + rapid.Uint16Range(0, 3).Draw(t, "more")
		}
		return a
	})
	destination := rapid.SampledFrom([]string{"10.9.0.1/32", "10.9.0.2/32", "10.9.0.0/30", "192.0.2.9/32"})
	some := rapid.Custom(func(t *rapid.T) Rule {
		r := Rule{
			Network: "vpc", Direction: Ingress, Priority: int64(rapid.IntRange(0, 3).Draw(t, "priority")),
			SourceRanges: rapid.SliceOfN(source, 1, 3).Draw(t, "sources"),
		}
		if rapid.IntRange(0, 3).Draw(t, "destinations") == 0 {
			r.DestinationRanges = rapid.SliceOfN(destination, 1, 2).Draw(t, "destination")
		}
		entries := rapid.SliceOfN(entry, 1, 3).Draw(t, "entries")
		if rapid.IntRange(0, 4).Draw(t, "denies") == 0 {
			r.Denied = entries
		} else {
			r.Allowed, r.TargetTags = entries, rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "other"}), 0, 2).Draw(t, "tags")
		}
		return r
	})
	yes := 0
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(some, 0, 7).Draw(t, "rules")
		want := Rule{Network: "vpc", SourceRanges: rapid.SliceOfN(source, 1, 2).Draw(t, "from"), TargetTags: []string{"a", "b"}}
		want.DestinationRanges = rapid.SampledFrom([][]string{nil, {"10.9.0.1/32"}, {"10.9.0.1/32", "10.9.0.2/32"}}).Draw(t, "at")
		nodes := addressesIn("10.9.0.0/30") // If want has no destinations, these and others.
		nodes = append(nodes, netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.10"))
		for _, p := range rapid.SliceOfN(rapid.Uint16Range(1, 5), 1, 2).Draw(t, "ports") {
			want.Allowed = append(want.Allowed, Allow{"tcp", p, p})
		}
		nodeTags := rapid.SampledFrom([][][]string{{{"a", "b"}}, {{"a"}, {"b"}}, {{"b"}}}).Draw(t, "node tags")
		all := true
		for _, to := range nodeTags {
			for _, from := range slices.Concat(addressesIn("10.0.0.0/28"), addressesIn("192.0.2.0/31")) {
				for _, a := range want.Allowed {
					for _, at := range nodes {
						p := packet{from, a.Protocol, a.From, to, at}
						all = all && (!want.matches(p, want.Allowed) || allowed(rules, p))
					}
				}
			}
		}
		if got := AlreadyAllowed(rules, want, nodeTags); got != all {
			t.Errorf("AlreadyAllowed is %v, for the packets it is %v", got, all)
		}
		if all {
			yes++
		}
	})
	if yes == 0 {
		t.Error("no example was ever allowed")
	}
}

func TestManyRangesTakeFewSteps(t *testing.T) {
	list := manualRule()
	list.Name, list.SourceRanges = "list", nil
	for i := range 4000 {
		list.SourceRanges = append(list.SourceRanges, netip.AddrFrom4([4]byte{byte(i >> 4), byte(i << 4), 1, 1}).String()+"/32")
	}
	for _, c := range []struct {
		rules []Rule
		want  bool
	}{{[]Rule{list}, false}, {[]Rule{list, manualRule()}, true}, {[]Rule{list, manualRule(), deny(1, Allow{"tcp", 443, 443}, "255.255.255.255/32")}, false}} {
		if got := AlreadyAllowed(c.rules, wanted(t), target.NodeTags); got != c.want {
			t.Errorf("%d rules: %v", len(c.rules), got)
		}
	}
}

func addressesIn(prefix string) []netip.Addr {
	var all []netip.Addr
	p := netip.MustParsePrefix(prefix)
	for a := p.Addr(); p.Contains(a); a = a.Next() {
		all = append(all, a)
	}
	return all
}

func TestARuleForAnyTagOfEveryNodeIsEnough(t *testing.T) {
	for name, c := range map[string]struct {
		nodeTags [][]string
		want     bool
	}{
		"the target tag":                {[][]string{{"node"}}, true},
		"a tag beside the target tag":   {[][]string{{"blue", "node"}}, true},
		"a tag that not all nodes have": {[][]string{{"node"}, {"blue"}}, false},
	} {
		want := wanted(t)
		want.TargetTags = []string{"blue"}
		if got := AlreadyAllowed([]Rule{manualRule()}, want, c.nodeTags); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
