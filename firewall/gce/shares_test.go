package gce

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// sharing is a world with the shared layout. Its roster are the Services given.
func sharing(t *testing.T, specs ...firewall.Spec) world {
	t.Helper()
	w := newWorld(t, "node")
	w.Layout, w.ClusterID = firewall.Shared, "prod"
	w.Roster = rosterOf(specs...)
	return w
}

func rosterOf(specs ...firewall.Spec) firewall.Roster {
	var owners []firewall.Owner
	for _, s := range specs {
		owners = append(owners, s.Owner)
	}
	return func() []firewall.Owner { return owners }
}

func portSpec(name string, ports ...uint16) firewall.Spec {
	s := firewall.Spec{
		Owner:        firewall.Owner{ClusterID: "prod", Service: types.NamespacedName{Namespace: "web", Name: name}, UID: types.UID(name)},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Nodes: []string{node("n1")},
	}
	for _, p := range ports {
		s.Ports = append(s.Ports, firewall.Port{Protocol: v1.ProtocolTCP, Port: p})
	}
	return s
}

// letIn flattens rules of ours to "ranges tags protocol:port".
func letIn(rules []firewall.Rule) map[string]bool {
	all := map[string]bool{}
	for _, r := range rules {
		if r.Disabled || r.Name == strangers || r.Name == theirs {
			continue
		}
		for _, a := range r.Allowed {
			for n := int(a.From); n <= int(a.To); n++ {
				all[fmt.Sprintf("%v %v %s:%d", r.SourceRanges, r.TargetTags, a.Protocol, n)] = true
			}
		}
	}
	return all
}

func (w world) wantOpen(t *testing.T, rules int, specs ...firewall.Spec) {
	t.Helper()
	var want []firewall.Rule
	for _, s := range specs {
		desired, err := firewall.Desired(s, firewall.Target{Network: "default", Tags: []string{"node"}})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, desired...)
	}
	got := w.rules(t)
	if diff := cmp.Diff(letIn(want), letIn(got)); diff != "" || len(got) != rules {
		t.Errorf("%d rules, want %d; open (-want +got):\n%s", len(got), rules, diff)
	}
}

func TestManyServicesShareARuleEnsuredAtTheSameTime(t *testing.T) {
	var specs []firewall.Spec
	for i := range uint16(40) {
		specs = append(specs, portSpec(fmt.Sprint("s", i), 3*i+1))
	}
	w := sharing(t, specs...)
	var group sync.WaitGroup
	for _, s := range specs {
		group.Go(func() {
			if _, err := w.Ensure(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.wantOpen(t, 1, specs...)
	for _, s := range specs[1:] {
		group.Go(func() {
			if err := w.Delete(t.Context(), s.Owner); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.wantOpen(t, 1, specs[0])
	if err := w.Delete(t.Context(), specs[0].Owner); err != nil {
		t.Error(err)
	}
	w.wantOpen(t, 0)
}

func TestARestartClosesNothingOfServicesNotYetEnsured(t *testing.T) {
	a, b, gone := portSpec("a", 80), portSpec("b", 443), portSpec("gone", 8080)
	w := sharing(t, a, b, gone)
	for _, s := range []firewall.Spec{a, b, gone} {
		w.mustEnsure(t, s)
	}
	restarted := w.restart(firewall.Shared, a, b)
	restarted.mustEnsure(t, a)
	restarted.wantOpen(t, 1, a, b)
	if exists, err := restarted.Exists(t.Context(), b.Owner); !exists || err != nil {
		t.Errorf("a Service that may have a port open does not exist: %v", err)
	}
	if err := restarted.Delete(t.Context(), b.Owner); err != nil {
		t.Fatal(err)
	}
	restarted.wantOpen(t, 1, a)
	if exists, err := restarted.Exists(t.Context(), b.Owner); exists || err != nil {
		t.Errorf("after its deletion it exists: %v", err)
	}
}

// restart is a new process that knows these Services.
func (w world) restart(layout firewall.Layout, roster ...firewall.Spec) world {
	next := New(w.api, w.tagger, w.tags)
	next.Layout, next.Roster, next.ClusterID = layout, rosterOf(roster...), w.ClusterID
	return world{next, w.sim}
}

func TestMovingBetweenLayoutsNeverClosesAnOpenPort(t *testing.T) {
	for seed := range uint64(100) {
		if err := moveLayouts(t, seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// moveLayouts goes from one layout to the other and back, under faults, and
// looks at every state in between.
func moveLayouts(t *testing.T, seed uint64) error {
	specs := []firewall.Spec{portSpec("a", 80, 443), portSpec("b", 443, 8080), portSpec("c", 5000)}
	specs[2].SourceRanges = append(specs[2].SourceRanges, netip.MustParsePrefix("::/0"))
	s, err := newSchedule(seed)
	if err != nil {
		return err
	}
	w := world{s.firewall, s.sim}
	w.Roster = rosterOf(specs...)
	for _, spec := range specs {
		w.mustEnsure(t, spec)
	}
	s.mustStay = letIn(w.rules(t))
	for _, layout := range []firewall.Layout{firewall.Shared, firewall.PerService} {
		must(s.start(s.sim.Client().Transport))
		w = world{s.firewall, s.sim}.restart(layout, specs...)
		for range s.rand.IntN(4) {
			must(s.sim.AddFault(gcesim.Fault{Kind: pick(s, gcesim.FaultKinds[1:]...), Count: 1 + s.rand.IntN(3)}))
		}
		for range 2 {
			rand.Shuffle(len(specs), func(i, j int) { specs[i], specs[j] = specs[j], specs[i] })
			for _, spec := range specs {
				_, _ = w.Ensure(t.Context(), spec) // Under faults anything may fail.
			}
			s.sim.ClearFaults()
		}
		want := map[firewall.Layout]int{firewall.Shared: 2, firewall.PerService: 4}[layout]
		if n := len(w.rules(t)) - 2; n != want {
			return fmt.Errorf("layout %s: %d rules, want %d", layout, n, want)
		}
		if got := letIn(w.rules(t)); !maps.Equal(got, s.mustStay) {
			return fmt.Errorf("layout %s: open (-want +got):\n%s", layout, cmp.Diff(s.mustStay, got))
		}
	}
	return s.broken
}

func TestASharedRuleChangedByHandIsNoticedForOneServiceAndRepaired(t *testing.T) {
	a, b := portSpec("a", 80), portSpec("b", 443)
	w := sharing(t, a, b)
	w.mustEnsure(t, a)
	w.mustEnsure(t, b)
	name := w.rules(t)[0].Name
	for what, patch := range map[string]string{"narrowed": `{"allowed":[{"IPProtocol":"tcp","ports":["443"]}]}`, "switched off": `{"disabled":true}`} {
		w.edit(t, name, patch)
		drifted, err := w.Drifted(t.Context())
		if err != nil || len(drifted) != 1 {
			t.Fatalf("%s: drifted %v, %v", what, drifted, err)
		}
		w.mustEnsure(t, a)
		w.wantOpen(t, 1, a, b)
	}
	if drifted, err := w.Drifted(t.Context()); err != nil || len(drifted) != 0 {
		t.Errorf("after the repair: %v, %v", drifted, err)
	}
}

func TestSharedRulesGoWithTheLastServiceEvenIfItWasNotDeletedHere(t *testing.T) {
	a := portSpec("a", 80)
	w := sharing(t, a)
	w.mustEnsure(t, a)
	for _, c := range []struct {
		clusterID string
		roster    []firewall.Spec
		rules     int
	}{
		{"prod", []firewall.Spec{a}, 1}, // Not yet ensured.
		{"", nil, 1},
		{"another", nil, 1},
		{"prod", nil, 0},
	} {
		restarted := w.restart(firewall.Shared, c.roster...)
		restarted.ClusterID = c.clusterID
		if drifted, err := restarted.Drifted(t.Context()); err != nil || len(drifted) != 0 || len(w.rules(t)) != c.rules {
			t.Errorf("%+v: %v, %v, %d rules", c, drifted, err, len(w.rules(t)))
		}
	}
}

func TestAStrangersRuleOfASharedNameIsLeftAlone(t *testing.T) {
	a := portSpec("a", 80)
	w := sharing(t, a)
	w.mustEnsure(t, a)
	name := w.rules(t)[0].Name
	w.request(t, "DELETE", "/"+name, "")
	w.request(t, "POST", "", `{"name":"`+name+`","description":"by hand","allowed":[{"IPProtocol":"icmp"}]}`)
	_, err := w.Ensure(t.Context(), a)
	var notOurs *firewall.NotOursError
	if !errors.As(err, &notOurs) || !strings.Contains(err.Error(), firewall.SharedMarkField) {
		t.Errorf("error %v", err)
	}
	if rules := w.rules(t); len(rules) != 1 || rules[0].Description != "by hand" {
		t.Errorf("rules %v", rules)
	}
}

func TestAThousandServicesWithDefaultRangesFitTheSmallestQuota(t *testing.T) {
	w := newWorld(t, "node")
	w.sim.Set(gcesim.Settings{FirewallQuota: new(20)})
	w.Layout = firewall.Shared
	var specs []firewall.Spec
	for i := range uint16(1000) {
		specs = append(specs, portSpec(fmt.Sprint("s", i), 2*i+1))
	}
	w.Roster = rosterOf(specs...)
	for i := 0; i < len(specs); i += 50 { // All would take the test longer, not elsewhere.
		for _, s := range specs[i : i+49] {
			w.shares.set(s.Owner, mustDesire(t, s))
		}
		w.mustEnsure(t, specs[i+49])
	}
	for i := 0; i < len(specs); i += 100 {
		w.mustEnsure(t, specs[i])
	}
	w.wantOpen(t, 12, specs...)
	for _, r := range w.rules(t) {
		if len(r.Allowed) > firewall.MaxPortRanges {
			t.Errorf("rule %s has %d ranges", r.Name, len(r.Allowed))
		}
	}
}

func mustDesire(t *testing.T, s firewall.Spec) []firewall.Rule {
	t.Helper()
	rules, err := firewall.Desired(s, firewall.Target{Network: "default", Tags: []string{"node"}})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clip(rules)
}

func TestAChangedTagOfANodeIsNoticedWithSharedRules(t *testing.T) {
	a := portSpec("a", 80)
	w := sharing(t, a)
	w.tags = nil // Those that the nodes have in common.
	w.mustEnsure(t, a)
	w.wantDrifted(t)
	if err := w.sim.UpdateInstance(zone, "n1", func(in *gcesim.Instance) { in.Tags = []string{"fresh"} }); err != nil {
		t.Fatal(err)
	}
	w.tagger = gce.NewInstances(w.api.(*gce.Client), 0) // One that has not yet read its list.
	w.wantDrifted(t, "a")
	w.mustEnsure(t, a)
	w.wantDrifted(t)
	if diff := cmp.Diff(map[string]bool{"[0.0.0.0/0] [fresh] tcp:80": true}, letIn(w.rules(t))); diff != "" {
		t.Errorf("open (-want +got):\n%s", diff)
	}
}

func (w world) wantDrifted(t *testing.T, want ...string) {
	t.Helper()
	drifted, err := w.Drifted(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, owner := range drifted {
		got = append(got, owner.Service.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drifted (-want +got):\n%s", diff)
	}
}
