package firewalltest

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

func owner() firewall.Owner {
	return firewall.Owner{ClusterID: "prod", Service: types.NamespacedName{Namespace: "web", Name: "traefik"}, UID: "uid-1"}
}

func spec() firewall.Spec {
	return firewall.Spec{
		Owner: owner(), Ports: []firewall.Port{{Protocol: v1.ProtocolTCP, Port: 80}},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Nodes: []string{"gce://p/z/n"},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")},
	}
}

func TestTheFakeKeepsTheRulesOfEverySpecAndNoOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fake := &Fake{}
		other := firewall.Rule{Name: "hostport-foreign", Description: "created by an administrator"}
		fake.SetRule(other)
		ensured := map[firewall.Owner]firewall.Spec{}
		t.Repeat(map[string]func(*rapid.T){
			"ensure": func(t *rapid.T) {
				s := spec()
				s.Owner = drawOwner(t)
				s.Ports[0].Port = rapid.Uint16Range(1, 3).Draw(t, "port")
				ranges := rapid.SampledFrom([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")})
				s.SourceRanges = rapid.SliceOf(ranges).Draw(t, "ranges")
				_, err := fake.Ensure(t.Context(), s)
				again, errAgain := fake.Ensure(t.Context(), s)
				if err != nil || errAgain != nil || len(again) != 0 {
					t.Fatalf("%v, then %v, %v", err, again, errAgain)
				}
				ensured[s.Owner] = s
			},
			"delete": func(t *rapid.T) {
				o := drawOwner(t)
				if err := fake.Delete(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				delete(ensured, o)
			},
			"": func(t *rapid.T) { checkRules(t, fake, ensured, other) },
		})
	})
}

// drawOwner returns one of two Services.
func drawOwner(t *rapid.T) firewall.Owner {
	o := owner()
	o.UID = rapid.SampledFrom([]types.UID{"u1", "u2"}).Draw(t, "owner")
	return o
}

func checkRules(t *rapid.T, fake *Fake, ensured map[firewall.Owner]firewall.Spec, other firewall.Rule) {
	want := map[string]firewall.Rule{other.Name: other}
	for o, s := range ensured {
		rules, err := firewall.Desired(s, target)
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
	fake.FailWith(func(method string, _ firewall.Owner) error { return &firewall.NotOursError{Rule: method} })
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

func TestTheFakeLeavesARuleWithoutOurMarkAlone(t *testing.T) {
	fake := &Fake{}
	rules, err := firewall.Desired(spec(), target)
	if err != nil {
		t.Fatal(err)
	}
	taken := rules[0]
	taken.Description = "created by an administrator"
	fake.SetRule(taken)
	_, err = fake.Ensure(t.Context(), spec())
	if err == nil || !strings.Contains(err.Error(), taken.Name) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(map[string]firewall.Rule{taken.Name: taken}, fake.Rules()); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	fake.RemoveRule(taken.Name)
	if lines, err := fake.Ensure(t.Context(), spec()); err != nil || !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "created") }) {
		t.Errorf("%v, %v", lines, err)
	}
}

func TestOwnersThatCannotBeListedAreAnError(t *testing.T) {
	fake := &Fake{}
	fake.FailWith(func(method string, o firewall.Owner) error { return errors.New(method + " in " + o.ClusterID) })
	if got, err := fake.Owners(t.Context(), "a"); err == nil || err.Error() != "Owners in a" || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
}
