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

// desiredBy is what a Service would have for itself.
func desiredBy(name string, source string, ports ...uint16) []Rule {
	s := Spec{Owner: Owner{ClusterID: "prod", Service: types.NamespacedName{Namespace: "web", Name: name}, UID: types.UID(name)}, Nodes: []string{"n"}}
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

// open flattens rules to what they let in: "range tcp:port".
func open(rules []Rule) map[string]bool {
	all := map[string]bool{}
	for _, r := range rules {
		for _, a := range r.Allowed {
			for n := int(a.From); n <= int(a.To); n++ {
				all[fmt.Sprintf("%v %v %s:%d", r.SourceRanges, r.TargetTags, a.Protocol, n)] = true
			}
		}
	}
	return all
}

func TestThousandServicesFitAHandfulOfRules(t *testing.T) {
	var wanted []Rule
	for i := range uint16(1000) {
		wanted = append(wanted, desiredBy(fmt.Sprint("s", i), "0.0.0.0/0", 2*i+1)...) // No neighbours.
	}
	rules := Share("prod", nil, wanted, nil)
	if len(rules) != 10 {
		t.Errorf("%d rules", len(rules))
	}
	if diff := cmp.Diff(open(wanted), open(rules)); diff != "" {
		t.Errorf("open (-want +got):\n%s", diff)
	}
	if again := Share("prod", rules, wanted, nil); len(ShareChanges(rules, again)) > 0 {
		t.Errorf("the second time there are changes")
	}
}

func TestSharedRulesAreMarkedAndNamed(t *testing.T) {
	rules := Share("prod", nil, append(desiredBy("a", "0.0.0.0/0", 80), desiredBy("b", "0.0.0.0/0", 443, 81)...), nil)
	if len(rules) != 1 {
		t.Fatalf("rules %v", rules)
	}
	r := rules[0]
	if !validName.MatchString(r.Name) || !strings.HasPrefix(r.Name, "hostport-shared-") || !strings.HasSuffix(r.Name, "-v4") {
		t.Errorf("name %s", r.Name)
	}
	if !r.IsSharedBy("prod") || r.IsSharedBy("other") || r.BelongsTo(owner()) || !strings.Contains(r.Description, SharedMarkField) {
		t.Errorf("description %s", r.Description)
	}
	if diff := cmp.Diff([]Allow{{"tcp", 80, 81}, {"tcp", 443, 443}}, r.Allowed); diff != "" {
		t.Errorf("allowed (-want +got):\n%s", diff)
	}
	if other := Share("other", nil, desiredBy("a", "0.0.0.0/0", 80), nil)[0]; other.Name == r.Name {
		t.Error("two clusters have rules of one name")
	}
	if !r.SharesWith(desiredBy("c", "0.0.0.0/0", 1)) || r.SharesWith(desiredBy("c", "10.0.0.0/8", 1)) {
		t.Error("who shares is told by the source ranges")
	}
}

func TestPortsOfServicesNotYetKnownStayWhereTheyAre(t *testing.T) {
	have := Share("prod", nil, append(desiredBy("a", "0.0.0.0/0", 80), desiredBy("b", "0.0.0.0/0", 443, 8080)...), nil)
	got := Share("prod", have, desiredBy("a", "0.0.0.0/0", 80), []Port{{v1.ProtocolTCP, 443}, {v1.ProtocolTCP, 9999}})
	if diff := cmp.Diff(open(desiredBy("x", "0.0.0.0/0", 80, 443)), open(got)); diff != "" {
		t.Errorf("open (-want +got):\n%s", diff)
	}
	if got := Share("prod", have, nil, []Port{{v1.ProtocolTCP, 443}}); len(got) != 1 || len(open(got)) != 1 {
		t.Errorf("without any known Service: %v", got)
	}
	if got := Share("prod", have, nil, nil); len(got) != 0 {
		t.Errorf("wanted by nobody: %v", got)
	}
}

func TestMorePortsThanOneRuleHoldsStayWithoutAnyKnownService(t *testing.T) {
	var all []uint16
	var odd []Port
	for p := uint16(1000); p < 1300; p++ {
		if all = append(all, p); p%2 == 1 {
			odd = append(odd, Port{v1.ProtocolTCP, p})
		}
	}
	have := Share("prod", nil, desiredBy("a", "0.0.0.0/0", all...), nil)
	got := Share("prod", have, nil, odd)
	if len(got) < 2 || len(open(got)) != len(odd) {
		t.Errorf("%d rules let in %d ports, want %d ports in several rules", len(got), len(open(got)), len(odd))
	}
}

func TestOpeningComesBeforeClosing(t *testing.T) {
	have := Share("prod", nil, append(desiredBy("a", "0.0.0.0/0", 80, 81), desiredBy("b", "10.0.0.0/8", 80)...), nil)
	want := Share("prod", have, append(desiredBy("a", "0.0.0.0/0", 80), desiredBy("c", "192.0.2.0/24", 80)...), nil)
	var actions []Action
	for _, c := range ShareChanges(have, want) {
		actions = append(actions, c.Action)
	}
	if diff := cmp.Diff([]Action{Create, Update, Remove}, actions); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
}

func TestSharedRulesLetInWhatIsWantedWithinTheLimitAndMoveNoPort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var have []Rule
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			var wanted []Rule
			for i := range rapid.IntRange(0, 3).Draw(t, "services") {
				ports := rapid.SliceOfN(rapid.Uint16Range(1, 700), 1, 150).Draw(t, "ports")
				wanted = append(wanted, desiredBy(fmt.Sprint("s", i), rapid.SampledFrom([]string{"0.0.0.0/0", "::/0", "10.0.0.0/8"}).Draw(t, "range"), ports...)...)
			}
			next := Share("prod", have, wanted, nil)
			if diff := cmp.Diff(open(wanted), open(next)); diff != "" {
				t.Fatalf("open (-want +got):\n%s", diff)
			}
			checkShared(t, have, next)
			have = next
		}
	})
}

func checkShared(t *rapid.T, have, next []Rule) {
	names := map[string]bool{}
	for _, r := range next {
		if len(r.Allowed) > MaxPortRanges || !validName.MatchString(r.Name) || names[r.Name] {
			t.Fatalf("rule %s with %d ranges, names so far %v", r.Name, len(r.Allowed), names)
		}
		names[r.Name] = true
		for _, h := range have {
			for what := range open([]Rule{h}) {
				if open([]Rule{r})[what] && h.Name != r.Name {
					t.Fatalf("%s moved from %s to %s", what, h.Name, r.Name)
				}
			}
		}
	}
	if !slices.IsSortedFunc(ShareChanges(have, next), func(a, b Change) int { return removes(a) - removes(b) }) {
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
	mark := formatSharedMark(sharedMark{"prod", "key"})
	for _, description := range []string{"", "{}", mark + " ", FormatMark(owner()), strings.Replace(mark, "prod", "", 1), strings.Replace(mark, "}", `,"x":"y"}`, 1)} {
		if (Rule{Description: description}).IsSharedBy("prod") || (Rule{Description: description}).IsSharedBy("") {
			t.Errorf("%q was taken for a mark", description)
		}
	}
}
