package firewall

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
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

func TestChangesAreToldInOneLine(t *testing.T) {
	want := wanted(t)
	edited, foreign, old := want, want, want
	edited.TargetTags, edited.Disabled = nil, true
	foreign.Name, foreign.Description = "hostport-x", "by hand"
	old.Name = "hostport-old"
	denied := want
	denied.Denied = []Allow{{Protocol: "all"}}
	for name, c := range map[string]struct {
		have, want []Rule
		lines      []string
	}{
		"nothing there": {nil, []Rule{want}, []string{"created firewall rule " + want.Name + ": tcp:80,tcp:443,udp:443 from 0.0.0.0/0 to tags node"}},
		"as wanted":     {[]Rule{foreign, want}, []Rule{want}, nil},
		"edited":        {[]Rule{edited}, []Rule{want}, []string{"updated firewall rule " + want.Name + ": disabled [true] -> [false], targetTags [] -> [node]"}},
		"turned round":  {[]Rule{denied}, []Rule{want}, []string{"replaced firewall rule " + want.Name + ": denied [all] -> []"}},
		"not wanted":    {[]Rule{foreign, want, old}, nil, []string{"deleted firewall rule " + want.Name, "deleted firewall rule hostport-old"}},
		"renamed":       {[]Rule{old}, []Rule{want}, []string{"created firewall rule " + want.Name + ": tcp:80,tcp:443,udp:443 from 0.0.0.0/0 to tags node", "deleted firewall rule hostport-old"}},
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

func TestTheFakeKeepsEverySpecAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fake := &Fake{}
		stranger := Rule{Name: "hostport-stranger", Description: "by hand"}
		fake.SetRule(stranger)
		open := map[Owner]Spec{}
		t.Repeat(map[string]func(*rapid.T){
			"ensure": func(t *rapid.T) {
				s := spec()
				s.Owner = drawOne(t)
				s.Ports = []Port{{v1.ProtocolTCP, rapid.Uint16Range(1, 3).Draw(t, "port")}}
				s.SourceRanges = prefixes(rapid.SliceOf(rapid.SampledFrom([]string{"0.0.0.0/0", "::/0"})).Draw(t, "ranges")...)
				_, err := fake.Ensure(t.Context(), s)
				again, errAgain := fake.Ensure(t.Context(), s)
				if err != nil || errAgain != nil || len(again) != 0 {
					t.Fatalf("%v, then %v, %v", err, again, errAgain)
				}
				open[s.Owner] = s
			},
			"delete": func(t *rapid.T) {
				o := drawOne(t)
				if err := fake.Delete(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				delete(open, o)
			},
			"": func(t *rapid.T) { checkFake(t, fake, open, stranger) },
		})
	})
}

// drawOne picks one of two Services.
func drawOne(t *rapid.T) Owner {
	o := owner()
	o.UID = rapid.SampledFrom([]types.UID{"u1", "u2"}).Draw(t, "owner")
	return o
}

func checkFake(t *rapid.T, fake *Fake, open map[Owner]Spec, stranger Rule) {
	want := map[string]Rule{stranger.Name: stranger}
	for o, s := range open {
		rules, err := Desired(s, fakeTarget)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			want[r.Name] = r
		}
		if exists, err := fake.Exists(t.Context(), o); err != nil || exists != (len(rules) > 0) {
			t.Errorf("exists %v, %v with %d rules", exists, err, len(rules))
		}
	}
	if diff := cmp.Diff(want, fake.Rules()); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestTheFakeFailsOnDemandAndChangesNothing(t *testing.T) {
	fake := &Fake{}
	fake.FailWith(func(method string, _ Owner) error { return &NotOursError{Rule: method} })
	_, ensureErr := fake.Ensure(t.Context(), spec())
	_, existsErr := fake.Exists(t.Context(), owner())
	for _, err := range []error{ensureErr, existsErr, fake.Delete(t.Context(), owner())} {
		if err == nil {
			t.Error("no error")
		}
	}
	if fake.Writes() != 0 || len(fake.Rules()) != 0 {
		t.Errorf("%d writes, rules %v", fake.Writes(), fake.Rules())
	}
	fake.FailWith(nil)
	if _, err := fake.Ensure(t.Context(), spec()); err != nil || fake.Writes() != 1 {
		t.Errorf("%v after %d writes", err, fake.Writes())
	}
}

func TestTheFakeLeavesAStrangersRuleOfOurNameAlone(t *testing.T) {
	fake := &Fake{}
	taken := wanted(t)
	taken.Description = "by hand"
	fake.SetRule(taken)
	_, err := fake.Ensure(t.Context(), spec())
	if err == nil || !strings.Contains(err.Error(), taken.Name) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(map[string]Rule{taken.Name: taken}, fake.Rules()); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	fake.RemoveRule(taken.Name)
	if lines, err := fake.Ensure(t.Context(), spec()); err != nil || !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "created") }) {
		t.Errorf("%v, %v", lines, err)
	}
}
