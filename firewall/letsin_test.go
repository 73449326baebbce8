package firewall

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		"nothing":                           {nil, false},
		"a wider rule":                      {[]Rule{byHand()}, true},
		"for all nodes":                     {edited(func(r *Rule) { r.TargetTags = nil }), true},
		"all protocols":                     {edited(func(r *Rule) { r.Allowed = []Allow{{"all", 0, 0}} }), true},
		"from more ranges":                  {edited(func(r *Rule) { r.SourceRanges = []string{"10.0.0.0/8", "0.0.0.0/0"} }), true},
		"switched off":                      {edited(func(r *Rule) { r.Disabled = true }), false},
		"outwards":                          {edited(func(r *Rule) { r.Direction = Egress }), false},
		"in another network":                {edited(func(r *Rule) { r.Network = "other" }), false},
		"for other nodes":                   {edited(func(r *Rule) { r.TargetTags = []string{"db"} }), false},
		"for service accounts":              {edited(func(r *Rule) { r.TargetTags, r.TargetServiceAccounts = nil, []string{"x"} }), false},
		"to some destinations":              {edited(func(r *Rule) { r.DestinationRanges = []string{"10.0.0.1/32"} }), false},
		"from tags only":                    {edited(func(r *Rule) { r.SourceRanges, r.SourceTags = nil, []string{"x"} }), false},
		"from fewer":                        {edited(func(r *Rule) { r.SourceRanges = []string{"0.0.0.0/1"} }), false},
		"not all ports":                     {edited(func(r *Rule) { r.Allowed[0].To = 442 }), false},
		"not all protocols":                 {edited(func(r *Rule) { r.Allowed = r.Allowed[:1] }), false},
		"two rules together":                {[]Rule{edited(func(r *Rule) { r.Allowed = r.Allowed[:1] })[0], edited(func(r *Rule) { r.Allowed = r.Allowed[1:] })[0]}, true},
		"denied first":                      {[]Rule{byHand(), deny(1, Allow{"tcp", 443, 443}, "10.0.0.0/8")}, false},
		"denied with the same priority":     {[]Rule{byHand(), deny(1000, Allow{"all", 0, 0}, "0.0.0.0/0")}, false},
		"denied later":                      {[]Rule{byHand(), deny(1001, Allow{"all", 0, 0}, "0.0.0.0/0")}, true},
		"something else denied":             {[]Rule{byHand(), deny(1, Allow{"tcp", 22, 22}, "0.0.0.0/0")}, true},
		"clients of another network denied": {[]Rule{byHand(), deny(1, Allow{"tcp", 443, 443}, "2001:db8::/32")}, true},
	} {
		if got := LetsIn(c.rules, wanted(t), true); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
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
