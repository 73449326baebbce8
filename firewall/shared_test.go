package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// desiredBy returns the rules that a Service would have in the layout PerService.
func desiredBy(name string, source string, ports ...uint16) []Rule {
	s := Spec{Owner: Owner{ClusterID: "prod", Service: types.NamespacedName{Namespace: "web", Name: name}, UID: types.UID(name)}, Nodes: []string{"n"}}
	s.Addresses = addresses("10.0.0.1", "2001:db8::1")
	s.SourceRanges = []netip.Prefix{netip.MustParsePrefix(source)}
	for _, p := range ports {
		s.Ports = append(s.Ports, Port{v1.ProtocolTCP, p})
	}
	rules, err := Desired(s, target)
	if err != nil {
		panic(err)
	}
	return rules
}

// traffic flattens rules to the traffic that they allow: "ranges destinations tags tcp:port".
func traffic(rules []Rule) map[string]bool {
	all := map[string]bool{}
	for _, r := range rules {
		for _, a := range r.Allowed {
			for n := int(a.From); n <= int(a.To); n++ {
				all[fmt.Sprintf("%v %v %v %s:%d", r.SourceRanges, r.DestinationRanges, r.TargetTags, a.Protocol, n)] = true
			}
		}
	}
	return all
}

func TestAThousandServicesFitIntoAFewRules(t *testing.T) {
	var wanted []Rule
	for i := range uint16(1000) {
		wanted = append(wanted, desiredBy(fmt.Sprint("s", i), "0.0.0.0/0", 2*i+1)...) // None are adjacent.
	}
	rules := AssignSharedRules("prod", nil, wanted, nil)
	if len(rules) != 12 {
		t.Errorf("%d rules", len(rules))
	}
	if diff := cmp.Diff(traffic(wanted), traffic(rules)); diff != "" {
		t.Errorf("traffic (-want +got):\n%s", diff)
	}
	if again := AssignSharedRules("prod", rules, wanted, nil); len(SharedRuleChanges(rules, again)) > 0 {
		t.Errorf("the second time there are changes")
	}
}

func TestSharedRulesAreMarkedAndNamed(t *testing.T) {
	rules := AssignSharedRules("prod", nil, append(desiredBy("a", "0.0.0.0/0", 80), desiredBy("b", "0.0.0.0/0", 443, 81)...), nil)
	if len(rules) != 1 {
		t.Fatalf("rules %v", rules)
	}
	r := rules[0]
	if !validName.MatchString(r.Name) || !strings.HasPrefix(r.Name, "hostport-shared-") || !strings.HasSuffix(r.Name, "-v4") {
		t.Errorf("name %s", r.Name)
	}
	if !r.IsSharedIn("prod") || r.IsSharedIn("other") || r.BelongsTo(owner()) || !strings.Contains(r.Description, SharedMarkField) {
		t.Errorf("description %s", r.Description)
	}
	if diff := cmp.Diff([]Allow{{"tcp", 80, 81}, {"tcp", 443, 443}}, r.Allowed); diff != "" {
		t.Errorf("allowed (-want +got):\n%s", diff)
	}
	if other := AssignSharedRules("other", nil, desiredBy("a", "0.0.0.0/0", 80), nil)[0]; other.Name == r.Name {
		t.Error("two clusters have rules of one name")
	}
	if !r.IsSharedLike(desiredBy("c", "0.0.0.0/0", 1)) || r.IsSharedLike(desiredBy("c", "10.0.0.0/8", 1)) {
		t.Error("rules are shared across source ranges")
	}
}

func TestServicesThatSelectOtherNodesHaveOtherSharedRules(t *testing.T) {
	all, other := desiredBy("a", "0.0.0.0/0", 80), desiredBy("b", "0.0.0.0/0", 443)
	other[0].NodeSelection, other[0].DestinationRanges = "pool=edge", []string{"10.0.0.9/32"}
	rules := AssignSharedRules("prod", nil, slices.Concat(all, other), nil)
	if len(rules) != 2 {
		t.Fatalf("rules %v", rules)
	}
	if diff := cmp.Diff(traffic(slices.Concat(all, other)), traffic(rules)); diff != "" {
		t.Errorf("traffic (-want +got):\n%s", diff)
	}
}

func TestASharedRuleHasTheDestinationsOfAllItsServices(t *testing.T) {
	a, b, every := desiredBy("a", "0.0.0.0/0", 80), desiredBy("b", "0.0.0.0/0", 443), desiredBy("c", "0.0.0.0/0", 443)
	b[0].DestinationRanges, every[0].DestinationRanges = []string{"10.0.0.2/32"}, nil
	for name, c := range map[string]struct {
		wanted []Rule
		want   []string
	}{
		"of two":                       {slices.Concat(a, b), []string{"10.0.0.1/32", "10.0.0.2/32"}},
		"of one that has every":        {slices.Concat(a, every), nil},
		"of one that has every, first": {slices.Concat(every, a), nil},
	} {
		got := AssignSharedRules("prod", nil, c.wanted, nil)
		if len(got) != 1 || !slices.Equal(got[0].DestinationRanges, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestASharedRuleThatGainsDestinationsIsChangedFirst(t *testing.T) {
	a, b := desiredBy("a", "0.0.0.0/0", 80), desiredBy("b", "10.0.0.0/8", 443, 444)
	have := AssignSharedRules("prod", nil, slices.Concat(a, b), nil)
	a[0].DestinationRanges = []string{"10.0.0.1/32", "10.0.0.2/32"}
	want := AssignSharedRules("prod", have, slices.Concat(a, desiredBy("b", "10.0.0.0/8", 443)), nil)
	if steps := SharedRuleChanges(have, want); len(steps) != 2 || len(steps[0].Rule.DestinationRanges) != 2 {
		t.Errorf("steps %v", steps)
	}
}

// ownerNamed returns the owner of the rules of desiredBy.
func ownerNamed(name string) Owner {
	owner, err := ParseMark(desiredBy(name, "0.0.0.0/0", 1)[0].Description)
	if err != nil {
		panic(err)
	}
	return owner
}

func TestPortsOfAServiceThatWasNotYetEnsuredStay(t *testing.T) {
	a, b, c := desiredBy("a", "0.0.0.0/0", 80), desiredBy("b", "0.0.0.0/0", 443, 8080), desiredBy("c", "10.0.0.0/8", 443)
	have := AssignSharedRules("prod", nil, slices.Concat(a, b, c), nil)
	for name, tt := range map[string]struct {
		wanted []Rule
		keep   []string
		want   []Rule
	}{
		"all known":                       {slices.Concat(a, b, c), nil, slices.Concat(a, b, c)},
		"none known":                      {nil, []string{"a", "b", "c"}, slices.Concat(a, b, c)},
		"one known":                       {a, []string{"b"}, slices.Concat(a, b)},
		"one known, another gone":         {a, []string{"c"}, slices.Concat(a, c)},
		"the port of another group stays": {nil, []string{"c"}, c},
		"one changed":                     {desiredBy("a", "0.0.0.0/0", 8080), []string{"b"}, slices.Concat(b, desiredBy("a", "0.0.0.0/0", 8080))},
		"one that has nothing":            {a, []string{"x"}, a},
		"all gone":                        {nil, nil, nil},
	} {
		var keep []Owner
		for _, s := range tt.keep {
			keep = append(keep, ownerNamed(s))
		}
		got := AssignSharedRules("prod", have, tt.wanted, keep)
		if diff := cmp.Diff(traffic(tt.want), traffic(got)); diff != "" {
			t.Errorf("%s: traffic (-want +got):\n%s", name, diff)
		}
		for _, s := range []string{"a", "b", "c", "x"} {
			shares := slices.ContainsFunc(got, func(r Rule) bool { return r.IsSharedBy(ownerNamed(s)) })
			wants := slices.ContainsFunc(tt.want, func(r Rule) bool { return r.BelongsTo(ownerNamed(s)) })
			if shares != wants {
				t.Errorf("%s: %s has ports: %v, want %v", name, s, shares, wants)
			}
		}
	}
}

func TestReleasingSharedRulesAffectsNoOtherService(t *testing.T) {
	a, b, c := desiredBy("a", "0.0.0.0/0", 80, 443), desiredBy("b", "0.0.0.0/0", 443), desiredBy("c", "10.0.0.0/8", 443)
	have := AssignSharedRules("prod", nil, slices.Concat(a, b, c), nil)
	for released, want := range map[string]string{"a": "update", "b": "update", "c": "delete", "x": ""} {
		got := ""
		for _, change := range ReleaseSharedRules(ownerNamed(released), have) {
			got += string(change.Action)
			if change.Rule.IsSharedBy(ownerNamed(released)) != (change.Action == Remove) {
				t.Errorf("%s released: %s", released, change)
			}
		}
		if got != want {
			t.Errorf("%s released: %q, want %q", released, got, want)
		}
	}
	if changes := ReleaseSharedRules(ownerNamed("b"), have); len(traffic([]Rule{changes[0].Rule})) != 2 {
		t.Errorf("a port that another Service has is removed: %v", changes)
	}
}

func TestMorePortsThanOneRuleHoldsStayIfNoServiceWasEnsured(t *testing.T) {
	var all, odd []uint16
	for p := uint16(1000); p < 1300; p++ {
		if all = append(all, p); p%2 == 1 {
			odd = append(odd, p)
		}
	}
	wanted := append(desiredBy("a", "0.0.0.0/0", all...), desiredBy("b", "0.0.0.0/0", odd...)...)
	have := AssignSharedRules("prod", nil, wanted, nil)
	got := AssignSharedRules("prod", have, nil, []Owner{ownerNamed("b")})
	if len(got) < 2 || len(traffic(got)) != len(odd) {
		t.Errorf("%d rules allow %d ports, want %d ports in several rules", len(got), len(traffic(got)), len(odd))
	}
}

func TestTheDescriptionOfAChangeOmitsTheMark(t *testing.T) {
	a, b := desiredBy("a", "0.0.0.0/0", 80), desiredBy("b", "0.0.0.0/0", 80)
	have := AssignSharedRules("prod", nil, a, nil)
	for want, wanted := range map[string][]Rule{
		": the Services that share it":                                       slices.Concat(a, b),
		": the Services that share it, allowed [tcp:80] -> [tcp:80 tcp:443]": desiredBy("a", "0.0.0.0/0", 80, 443),
	} {
		changes := SharedRuleChanges(have, AssignSharedRules("prod", have, wanted, nil))
		if len(changes) != 1 || changes[0].String() != "updated firewall rule "+have[0].Name+want {
			t.Errorf("changes %v, want %q", changes, want)
		}
	}
}

func TestStepsThatAllowTrafficComeFirst(t *testing.T) {
	have := AssignSharedRules("prod", nil, append(desiredBy("a", "0.0.0.0/0", 80, 81), desiredBy("b", "10.0.0.0/8", 80)...), nil)
	want := AssignSharedRules("prod", have, append(desiredBy("a", "0.0.0.0/0", 80), desiredBy("c", "192.0.2.0/24", 80)...), nil)
	var actions []Action
	for _, c := range SharedRuleChanges(have, want) {
		actions = append(actions, c.Action)
	}
	if diff := cmp.Diff([]Action{Create, Update, Remove}, actions); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
}

func TestSharedRulesAllowWhatIsWantedWithinTheLimitsAndMoveNoPort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var have []Rule
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			var wanted []Rule
			for i := range rapid.IntRange(0, 3).Draw(t, "services") {
				ports := rapid.SliceOfN(rapid.Uint16Range(1, 700), 1, 150).Draw(t, "ports")
				wanted = append(wanted, desiredBy(fmt.Sprint("s", i), rapid.SampledFrom([]string{"0.0.0.0/0", "::/0", "10.0.0.0/8"}).Draw(t, "range"), ports...)...)
			}
			next := AssignSharedRules("prod", have, wanted, nil)
			if again := AssignSharedRules("prod", next, wanted, nil); len(SharedRuleChanges(next, again)) > 0 {
				t.Fatalf("the second time there are changes: %v", SharedRuleChanges(next, again))
			}
			if diff := cmp.Diff(traffic(wanted), traffic(next)); diff != "" {
				t.Fatalf("traffic (-want +got):\n%s", diff)
			}
			checkShared(t, have, next)
			have = next
		}
	})
}

// portsIn returns what a rule holds, by its mark: "key service port".
func portsIn(r Rule) map[string]bool {
	mark, err := parseSharedMark(r.Description)
	if err != nil {
		panic(err)
	}
	g := &sharedGroup{wanted: map[ownedPort]bool{}}
	g.addExisting(r, mark, func(string) bool { return true })
	all := map[string]bool{}
	for port := range g.wanted {
		all[fmt.Sprint(mark.Key, port)] = true
	}
	return all
}

func checkShared(t *rapid.T, have, next []Rule) {
	names := map[string]bool{}
	for _, r := range next {
		if len(r.Allowed) > MaxPortRanges || len(r.Description) > maxDescription || !validName.MatchString(r.Name) || names[r.Name] {
			t.Fatalf("rule %s with %d ranges, names so far %v", r.Name, len(r.Allowed), names)
		}
		names[r.Name] = true
		for _, h := range have {
			for port := range portsIn(h) {
				if portsIn(r)[port] && h.Name != r.Name {
					t.Fatalf("%s moved from %s to %s", port, h.Name, r.Name)
				}
			}
		}
	}
	if !slices.IsSortedFunc(SharedRuleChanges(have, next), func(a, b Change) int { return removes(a) - removes(b) }) {
		t.Fatal("a rule is removed before another is made")
	}
}

func removes(c Change) int {
	if c.Action == Remove {
		return 1
	}
	return 0
}

func TestOtherDescriptionsAreNoSharedMarks(t *testing.T) {
	mark := formatJSON(sharedMark{"prod", "key", map[string]string{"abcdefgh": "tcp:80-81,udp:53"}})
	if !(Rule{Description: mark}).IsSharedIn("prod") {
		t.Fatalf("%s is a mark", mark)
	}
	for _, description := range []string{"", "{}", mark + " ", FormatMark(owner()), strings.Replace(mark, "prod", "", 1), mark[:len(mark)-1] + `,"x":"y"}`,
		strings.Replace(mark, "tcp:80-81", "tcp:80,tcp:81", 1), strings.Replace(mark, "80", "0", 1), strings.Replace(mark, "tcp", "icmp", 1), strings.Replace(mark, "udp:53", "", 1),
	} {
		if r := (Rule{Description: description}); r.IsSharedIn("prod") || r.IsSharedIn("") || r.IsSharedOnlyBy(nil) {
			t.Errorf("%q was taken for a mark", description)
		}
	}
}
