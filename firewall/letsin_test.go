package firewall

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// byHand is a rule that lets in what wanted does, and more.
func byHand() Rule {
	return Rule{
		Name: "by-hand", Network: "vpc", Direction: Ingress, Priority: 1000,
		Allowed: []Allow{{"tcp", 1, 1000}, {"udp", 0, 0}}, SourceRanges: []string{"0.0.0.0/0"}, TargetTags: []string{"node"},
	}
}

func deny(priority int64, what Allow, source string) Rule {
	return Rule{Name: "deny", Network: "vpc", Direction: Ingress, Priority: priority, Denied: []Allow{what}, SourceRanges: []string{source}}
}

func TestWhatSomeRuleLetsInAlready(t *testing.T) {
	edited := func(edit func(*Rule)) []Rule { r := byHand(); edit(&r); return []Rule{r} }
	for name, c := range map[string]struct {
		rules []Rule
		want  bool
	}{
		"nothing":                                {nil, false},
		"a wider rule":                           {[]Rule{byHand()}, true},
		"for all nodes":                          {edited(func(r *Rule) { r.TargetTags = nil }), true},
		"all protocols":                          {edited(func(r *Rule) { r.Allowed = []Allow{{"all", 0, 0}} }), true},
		"from more ranges":                       {edited(func(r *Rule) { r.SourceRanges = []string{"10.0.0.0/8", "0.0.0.0/0"} }), true},
		"switched off":                           {edited(func(r *Rule) { r.Disabled = true }), false},
		"outwards":                               {edited(func(r *Rule) { r.Direction = Egress }), false},
		"in another network":                     {edited(func(r *Rule) { r.Network = "other" }), false},
		"for other nodes":                        {edited(func(r *Rule) { r.TargetTags = []string{"db"} }), false},
		"for service accounts":                   {edited(func(r *Rule) { r.TargetTags, r.TargetServiceAccounts = nil, []string{"x"} }), false},
		"to some destinations":                   {edited(func(r *Rule) { r.DestinationRanges = []string{"10.0.0.1/32"} }), false},
		"from tags only":                         {edited(func(r *Rule) { r.SourceRanges, r.SourceTags = nil, []string{"x"} }), false},
		"from fewer":                             {edited(func(r *Rule) { r.SourceRanges = []string{"0.0.0.0/1"} }), false},
		"not all ports":                          {edited(func(r *Rule) { r.Allowed[0].To = 442 }), false},
		"not all protocols":                      {edited(func(r *Rule) { r.Allowed = r.Allowed[:1] }), false},
		"two rules together":                     {[]Rule{edited(func(r *Rule) { r.Allowed = r.Allowed[:1] })[0], edited(func(r *Rule) { r.Allowed = r.Allowed[1:] })[0]}, true},
		"ranges of two rules together":           {[]Rule{edited(func(r *Rule) { r.SourceRanges = []string{"0.0.0.0/1"} })[0], edited(func(r *Rule) { r.SourceRanges = []string{"128.0.0.0/1"} })[0]}, true},
		"a gap between the ranges":               {[]Rule{edited(func(r *Rule) { r.SourceRanges = []string{"0.0.0.0/1"} })[0], edited(func(r *Rule) { r.SourceRanges = []string{"192.0.0.0/2"} })[0]}, false},
		"ports of two rules together":            {[]Rule{edited(func(r *Rule) { r.Allowed[0].To = 100 })[0], edited(func(r *Rule) { r.Allowed[0].From = 100 })[0]}, true},
		"denied by service account":              {[]Rule{byHand(), {Network: "vpc", Direction: Ingress, Priority: 1, Denied: []Allow{{"all", 0, 0}}, SourceServiceAccounts: []string{"x"}}}, false},
		"allowed before a part is denied":        {[]Rule{edited(func(r *Rule) { r.Priority, r.SourceRanges = 1, []string{"10.0.0.0/8"} })[0], byHand(), deny(2, Allow{"tcp", 443, 443}, "10.1.0.0/16")}, true},
		"a part denied that is allowed too late": {[]Rule{edited(func(r *Rule) { r.Priority, r.SourceRanges = 1, []string{"10.1.0.0/17"} })[0], byHand(), deny(2, Allow{"tcp", 443, 443}, "10.1.0.0/16")}, false},
		"denied first":                           {[]Rule{byHand(), deny(1, Allow{"tcp", 443, 443}, "10.0.0.0/8")}, false},
		"denied with the same priority":          {[]Rule{byHand(), deny(1000, Allow{"all", 0, 0}, "0.0.0.0/0")}, false},
		"denied later":                           {[]Rule{byHand(), deny(1001, Allow{"all", 0, 0}, "0.0.0.0/0")}, true},
		"something else denied":                  {[]Rule{byHand(), deny(1, Allow{"tcp", 22, 22}, "0.0.0.0/0")}, true},
		"clients of another network denied":      {[]Rule{byHand(), deny(1, Allow{"tcp", 443, 443}, "2001:db8::/32")}, true},
	} {
		if got := LetsIn(c.rules, wanted(t), true); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// packet is what a rule decides about.
type packet struct {
	from     netip.Addr
	protocol string
	port     uint16
	to       []string // The node's tags.
}

func (r Rule) matches(p packet, entries []Allow) bool {
	from := slices.ContainsFunc(r.SourceRanges, func(s string) bool { return netip.MustParsePrefix(s).Contains(p.from) })
	to := len(r.TargetTags) == 0 || slices.ContainsFunc(r.TargetTags, func(tag string) bool { return slices.Contains(p.to, tag) })
	return from && to && slices.ContainsFunc(entries, func(a Allow) bool { return a.covers(Allow{p.protocol, p.port, p.port}) })
}

// admitted judges one packet as the documentation of GCE says: the matching rule
// with the smallest number decides, among equals one that denies, and in the end
// nothing comes in.
func admitted(rules []Rule, p packet) bool {
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

func TestLetsInSaysWhatHappensToEveryPacket(t *testing.T) {
	source := rapid.SampledFrom([]string{"10.0.0.0/28", "10.0.0.0/29", "10.0.0.8/29", "10.0.0.8/30", "10.0.0.12/30", "10.0.0.0/30", "10.0.0.5/32", "0.0.0.0/0"})
	entry := rapid.Custom(func(t *rapid.T) Allow {
		a := Allow{Protocol: rapid.SampledFrom([]string{"tcp", "tcp", "tcp", "udp", "all"}).Draw(t, "protocol")}
		if a.Protocol != "all" && rapid.IntRange(0, 5).Draw(t, "every port") > 0 {
			a.From = rapid.Uint16Range(1, 4).Draw(t, "from")
			a.To = a.From + rapid.Uint16Range(0, 3).Draw(t, "more")
		}
		return a
	})
	some := rapid.Custom(func(t *rapid.T) Rule {
		r := Rule{
			Network: "vpc", Direction: Ingress, Priority: int64(rapid.IntRange(0, 3).Draw(t, "priority")),
			SourceRanges: rapid.SliceOfN(source, 1, 3).Draw(t, "sources"),
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
		for _, p := range rapid.SliceOfN(rapid.Uint16Range(1, 5), 1, 2).Draw(t, "ports") {
			want.Allowed = append(want.Allowed, Allow{"tcp", p, p})
		}
		everyTag := rapid.Bool().Draw(t, "every tag")
		all := true
		for _, to := range map[bool][][]string{true: {{"a", "b"}}, false: {{"a"}, {"b"}}}[everyTag] {
			for _, from := range slices.Concat(addressesIn("10.0.0.0/28"), addressesIn("192.0.2.0/31")) {
				for _, a := range want.Allowed {
					p := packet{from, a.Protocol, a.From, to}
					all = all && (!want.matches(p, want.Allowed) || admitted(rules, p))
				}
			}
		}
		if got := LetsIn(rules, want, everyTag); got != all {
			t.Errorf("LetsIn says %v, the packets say %v", got, all)
		}
		if all {
			yes++
		}
	})
	if yes == 0 {
		t.Error("nothing was ever let in")
	}
}

func TestManyRangesAreJudgedWithoutTryingThemAll(t *testing.T) {
	list := byHand()
	list.Name, list.SourceRanges = "list", nil
	for i := range 4000 {
		list.SourceRanges = append(list.SourceRanges, netip.AddrFrom4([4]byte{byte(i >> 4), byte(i << 4), 1, 1}).String()+"/32")
	}
	for _, c := range []struct {
		rules []Rule
		want  bool
	}{{[]Rule{list}, false}, {[]Rule{list, byHand()}, true}, {[]Rule{list, byHand(), deny(1, Allow{"tcp", 443, 443}, "255.255.255.255/32")}, false}} {
		if got := LetsIn(c.rules, wanted(t), true); got != c.want {
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

func TestOneOfSeveralTagsIsEnoughIfEveryNodeBearsAll(t *testing.T) {
	want := wanted(t)
	want.TargetTags = []string{"node", "web"}
	for everyTag, lets := range map[bool]bool{true: true, false: false} {
		if got := LetsIn([]Rule{byHand()}, want, everyTag); got != lets {
			t.Errorf("every tag %v: %v", everyTag, got)
		}
	}
}

func TestCommandsAreThoseOfGcloud(t *testing.T) {
	want := wanted(t)
	edited, denied := want, want
	edited.TargetTags, edited.Disabled, edited.SourceTags = nil, true, []string{"x"}
	denied.Denied = []Allow{{"all", 0, 0}}
	create := "gcloud compute firewall-rules create " + want.Name + " --project=p --network=vpc --direction=INGRESS '--description=" + want.Description +
		"' --priority=1000 --allow=tcp:80,tcp:443,udp:443 --source-ranges=0.0.0.0/0 --target-tags=node"
	remove := "gcloud compute firewall-rules delete " + want.Name + " --project=p --quiet"
	for name, c := range map[string]struct {
		have, want []Rule
		commands   []string
	}{
		"nothing there":   {nil, []Rule{want}, []string{create}},
		"edited":          {[]Rule{edited}, []Rule{want}, []string{"gcloud compute firewall-rules update " + want.Name + " --project=p --no-disabled --source-tags= --target-tags=node"}},
		"turned round":    {[]Rule{denied}, []Rule{want}, []string{remove + " && " + create}},
		"not wanted":      {[]Rule{want}, nil, []string{remove}},
		"open by hand":    {[]Rule{byHand()}, []Rule{want}, nil},
		"as it should be": {[]Rule{want}, []Rule{want}, nil},
	} {
		changes, err := Unmet(owner(), c.have, c.want, true)
		if diff := cmp.Diff(c.commands, Gcloud("p", changes)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	foreign := want
	foreign.Description, foreign.Allowed = "by hand", []Allow{{"icmp", 0, 0}}
	var notOurs *NotOursError
	if _, err := Unmet(owner(), []Rule{foreign}, []Rule{want}, true); !errors.As(err, &notOurs) {
		t.Errorf("a stranger's rule of the name: %v", err)
	}
}

func TestWordsAreQuotedForAShell(t *testing.T) {
	for word, want := range map[string]string{"a-b": "a-b", "--x=tcp:80,udp": "--x=tcp:80,udp", "": "''", "a b": "'a b'", `it's "`: `'it'\''s "'`, "$x": "'$x'"} {
		if got := quote(word); got != want {
			t.Errorf("%s: %s", word, got)
		}
	}
}

func TestTheErrorNamesServiceCauseAndCommands(t *testing.T) {
	cause := errors.New("no right")
	err := &ByHandError{Owner: owner(), Commands: []string{"gcloud a", "gcloud b"}, Cause: cause}
	for _, part := range []string{"web/traefik", "no right", "gcloud a ; gcloud b"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q misses %q", err.Error(), part)
		}
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is not wrapped")
	}
}
