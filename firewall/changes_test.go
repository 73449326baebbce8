package firewall

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wanted is the rule of spec().
func wanted(t *testing.T) Rule {
	t.Helper()
	rules, err := Desired(spec(), target)
	if err != nil || len(rules) != 1 {
		t.Fatal(rules, err)
	}
	return rules[0]
}

func TestEveryFieldThatMattersIsCompared(t *testing.T) {
	for field, edit := range map[string]func(*Rule){
		FieldNetwork:               func(r *Rule) { r.Network = "other" },
		FieldDirection:             func(r *Rule) { r.Direction = Egress },
		FieldDescription:           func(r *Rule) { r.Description = "" },
		FieldPriority:              func(r *Rule) { r.Priority = 0 },
		FieldDisabled:              func(r *Rule) { r.Disabled = true },
		FieldAllowed:               func(r *Rule) { r.Allowed = r.Allowed[1:] },
		FieldDenied:                func(r *Rule) { r.Denied = []Allow{{Protocol: "all"}} },
		FieldSourceRanges:          func(r *Rule) { r.SourceRanges = nil },
		FieldDestinationRanges:     func(r *Rule) { r.DestinationRanges = []string{"10.0.0.0/8"} },
		FieldSourceTags:            func(r *Rule) { r.SourceTags = []string{"x"} },
		FieldTargetTags:            func(r *Rule) { r.TargetTags = nil },
		FieldSourceServiceAccounts: func(r *Rule) { r.SourceServiceAccounts = []string{"x"} },
		FieldTargetServiceAccounts: func(r *Rule) { r.TargetServiceAccounts = []string{"x"} },
	} {
		want := wanted(t)
		have := want
		edit(&have)
		differences := Diff(have, want)
		if len(differences) != 1 || differences[0].Field != field {
			t.Errorf("edited %s, found %v", field, differences)
		}
	}
}

func TestOrderAndSplitMakeNoDifference(t *testing.T) {
	a, b := wanted(t), wanted(t)
	a.TargetTags, b.TargetTags = []string{"x", "y"}, []string{"y", "x", "y"}
	a.Allowed, b.Allowed = []Allow{{"tcp", 80, 82}}, []Allow{{"tcp", 82, 82}, {"tcp", 80, 81}}
	if differences := Diff(a, b); len(differences) != 0 {
		t.Error(differences)
	}
}

func TestLongListsAreDescribedByWhatChanges(t *testing.T) {
	have, want := wanted(t), wanted(t)
	have.DestinationRanges, want.DestinationRanges = nil, nil
	for i := range 20 {
		have.DestinationRanges = append(have.DestinationRanges, fmt.Sprintf("10.0.0.%d/32", 10+i))
		want.DestinationRanges = append(want.DestinationRanges, fmt.Sprintf("10.0.0.%d/32", 16+i))
	}
	want.DestinationRanges = want.DestinationRanges[:16]
	text := "destinationRanges +[10.0.0.30/32,10.0.0.31/32] -[10.0.0.10/32,10.0.0.11/32,10.0.0.12/32,10.0.0.13/32 and 2 more]"
	if differences := Diff(have, want); len(differences) != 1 || differences[0].String() != text {
		t.Errorf("%v", differences)
	}
	if got := have.Summary(); !strings.HasSuffix(got, "to 10.0.0.10/32,10.0.0.11/32,10.0.0.12/32,10.0.0.13/32 and 16 more at tags node") {
		t.Error(got)
	}
}

func TestTheDescriptionOfAChangeFitsIntoAnEventWhateverTheRuleAllows(t *testing.T) {
	few, many := wanted(t), wanted(t)
	many.SourceRanges = nil
	for i := range 5000 {
		many.SourceRanges = append(many.SourceRanges, fmt.Sprintf("10.%d.%d.0/25", i/256, i%256))
		many.Allowed = append(many.Allowed, Allow{Protocol: "udp", From: uint16(1000 + 2*i), To: uint16(1000 + 2*i)})
	}
	const maxMessage = 1024 // of an event
	for name, have := range map[string][]Rule{"created": nil, "updated": {few}} {
		changes := Changes(owner(), have, []Rule{many})
		if len(changes) != 1 {
			t.Fatalf("%s: changes %v", name, changes)
		}
		if got := changes[0].String(); len(got) > maxMessage/2 || !strings.HasPrefix(got, name) || !strings.Contains(got, "10.0.100.0/25 and 4996 more") {
			t.Errorf("%d bytes: %.1100s", len(got), got)
		}
	}
}

func TestEachChangeIsDescribedInOneLine(t *testing.T) {
	want := wanted(t)
	edited, foreign, old := want, want, want
	edited.TargetTags, edited.Disabled = nil, true
	foreign.Name, foreign.Description = "hostport-x", "created by an administrator"
	old.Name = "hostport-old"
	denied := want
	denied.Denied = []Allow{{Protocol: "all"}}
	for name, c := range map[string]struct {
		have, want []Rule
		lines      []string
	}{
		"nothing there": {nil, []Rule{want}, []string{"created firewall rule " + want.Name + ": tcp:80,tcp:443,udp:443 from 0.0.0.0/0 to 10.0.0.1/32,203.0.113.1/32 at tags node"}},
		"as wanted":     {[]Rule{foreign, want}, []Rule{want}, nil},
		"edited":        {[]Rule{edited}, []Rule{want}, []string{"updated firewall rule " + want.Name + ": disabled [true] -> [false], targetTags [] -> [node]"}},
		"denying":       {[]Rule{denied}, []Rule{want}, []string{"replaced firewall rule " + want.Name + ": denied [all] -> []"}},
		"not wanted":    {[]Rule{foreign, want, old}, nil, []string{"deleted firewall rule " + want.Name, "deleted firewall rule hostport-old"}},
		"renamed":       {[]Rule{old}, []Rule{want}, []string{"created firewall rule " + want.Name + ": tcp:80,tcp:443,udp:443 from 0.0.0.0/0 to 10.0.0.1/32,203.0.113.1/32 at tags node", "deleted firewall rule hostport-old"}},
	} {
		var lines []string
		for _, change := range Changes(owner(), c.have, c.want) {
			lines = append(lines, change.String())
		}
		if diff := cmp.Diff(c.lines, lines); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
