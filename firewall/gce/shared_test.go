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
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// newSharedWorld has the shared layout and these Services.
func newSharedWorld(t *testing.T, specs ...firewall.Spec) world {
	t.Helper()
	w := newWorld(t, "node")
	w.options.Layout, w.cluster.DeleteOrphans = firewall.Shared, true
	w.cluster.Services = ownersOf(specs...)
	return w
}

func ownersOf(specs ...firewall.Spec) firewall.OwnerLister {
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
		Addresses: addresses("10.0.0.1", "2001:db8::1"),
	}
	for _, p := range ports {
		s.Ports = append(s.Ports, firewall.Port{Protocol: v1.ProtocolTCP, Port: p})
	}
	return s
}

// traffic flattens our rules to the traffic that they allow: "ranges
// destination tags protocol:port".
func traffic(rules []firewall.Rule) map[string]bool {
	all := map[string]bool{}
	for _, r := range rules {
		if r.Disabled || r.Name == foreign || r.Name == theirs {
			continue
		}
		for _, a := range r.Allowed {
			for n := int(a.From); n <= int(a.To); n++ {
				for _, destination := range r.DestinationRanges {
					all[fmt.Sprintf("%v %s %v %s:%d", r.SourceRanges, destination, r.TargetTags, a.Protocol, n)] = true
				}
			}
		}
	}
	return all
}

// wantTraffic wants so many rules, which allow exactly what the specs need.
func (w world) wantTraffic(t *testing.T, rules int, specs ...firewall.Spec) {
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
	if diff := cmp.Diff(traffic(want), traffic(got)); diff != "" || len(got) != rules {
		t.Errorf("%d rules, want %d; traffic (-want +got):\n%s", len(got), rules, diff)
	}
}

// together calls do for all specs while shared rules are being changed for another Service, so that all
// of them wait. It returns the requests to the Compute API by verb.
func (w world) together(t *testing.T, specs []firewall.Spec, do func(firewall.Spec) error) map[string]int {
	t.Helper()
	w.sim.ForgetRequests()
	w.needs.semaphore <- struct{}{}
	before := w.needs.last()
	var group sync.WaitGroup
	for _, s := range specs {
		group.Go(func() {
			if err := do(s); err != nil {
				t.Error(err)
			}
		})
	}
	for w.needs.last() < before+uint64(len(specs)) {
		time.Sleep(time.Millisecond)
	}
	<-w.needs.semaphore
	group.Wait()
	verbs := map[string]int{}
	for _, r := range w.sim.Requests() {
		if strings.HasPrefix(r.Verb, "firewalls.") {
			verbs[r.Verb]++
		}
	}
	return verbs
}

func TestServicesThatWaitForASharedRuleTakeTheRequestsOfOne(t *testing.T) {
	var specs []firewall.Spec
	for i := range uint16(40) {
		specs = append(specs, portSpec(fmt.Sprint("s", i), 3*i+1))
	}
	w := newSharedWorld(t, specs...)
	ensure := func(s firewall.Spec) error { _, err := w.Ensure(t.Context(), s); return err }
	remove := func(s firewall.Spec) error { return w.Delete(t.Context(), s.Owner) }
	verbs := w.together(t, specs, ensure)
	w.wantTraffic(t, 1, specs...)
	if diff := cmp.Diff(map[string]int{"firewalls.list": 1, "firewalls.insert": 1}, verbs); diff != "" {
		t.Errorf("to create (-want +got):\n%s", diff)
	}
	verbs = w.together(t, specs[1:], remove)
	w.wantTraffic(t, 1, specs[0])
	if diff := cmp.Diff(map[string]int{"firewalls.list": 1, "firewalls.patch": 1}, verbs); diff != "" {
		t.Errorf("to delete (-want +got):\n%s", diff)
	}
	if err := remove(specs[0]); err != nil {
		t.Error(err)
	}
	w.wantTraffic(t, 0)
}

func TestARestartKeepsThePortsOfServicesNotYetEnsured(t *testing.T) {
	a, b, gone := portSpec("a", 80), portSpec("b", 443), portSpec("gone", 8080)
	w := newSharedWorld(t, a, b, gone)
	for _, s := range []firewall.Spec{a, b, gone} {
		w.mustEnsure(t, s)
	}
	restarted := w.restart(firewall.Shared, a, b)
	restarted.mustEnsure(t, a)
	restarted.wantTraffic(t, 1, a, b)
	if exists, err := restarted.Exists(t.Context(), b.Owner); !exists || err != nil {
		t.Errorf("a Service that has ports does not exist: %v", err)
	}
	if err := restarted.Delete(t.Context(), b.Owner); err != nil {
		t.Fatal(err)
	}
	restarted.wantTraffic(t, 1, a)
	if exists, err := restarted.Exists(t.Context(), b.Owner); exists || err != nil {
		t.Errorf("after its deletion it exists: %v", err)
	}
}

// restart is a new process with these Services.
func (w world) restart(layout firewall.Layout, specs ...firewall.Spec) world {
	cluster := w.cluster
	cluster.Services = ownersOf(specs...)
	next := New(w.api, w.tagger, Options{Tags: w.options.Tags, Layout: layout}, cluster)
	return world{next, w.sim}
}

func TestMovingBetweenLayoutsNeverInterruptsTraffic(t *testing.T) {
	for seed := range uint64(100) {
		if err := moveLayouts(t, seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// moveLayouts changes from one layout to the other and back, under faults, and
// checks every state in between.
func moveLayouts(t *testing.T, seed uint64) error {
	specs := []firewall.Spec{portSpec("a", 80, 443), portSpec("b", 443, 8080), portSpec("c", 5000)}
	specs[2].SourceRanges = append(specs[2].SourceRanges, netip.MustParsePrefix("::/0"))
	s, err := newSchedule(seed)
	if err != nil {
		return err
	}
	w := world{s.firewall, s.sim}
	w.cluster.Services = ownersOf(specs...)
	for _, spec := range specs {
		w.mustEnsure(t, spec)
	}
	s.required = traffic(w.rules(t))
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
		if got := traffic(w.rules(t)); !maps.Equal(got, s.required) {
			return fmt.Errorf("layout %s: traffic (-want +got):\n%s", layout, cmp.Diff(s.required, got))
		}
	}
	return s.broken
}

func TestDriftOfASharedRuleIsDetectedForOneServiceAndRepaired(t *testing.T) {
	a, b := portSpec("a", 80), portSpec("b", 443)
	w := newSharedWorld(t, a, b)
	w.mustEnsure(t, a)
	w.mustEnsure(t, b)
	name := w.rules(t)[0].Name
	for what, patch := range map[string]string{"narrowed": `{"allowed":[{"IPProtocol":"tcp","ports":["443"]}]}`, "disabled": `{"disabled":true}`} {
		w.edit(t, name, patch)
		drifted, err := w.Drifted(t.Context())
		if err != nil || len(drifted) != 1 {
			t.Fatalf("%s: drifted %v, %v", what, drifted, err)
		}
		w.mustEnsure(t, a)
		w.wantTraffic(t, 1, a, b)
	}
	if drifted, err := w.Drifted(t.Context()); err != nil || len(drifted) != 0 {
		t.Errorf("after the repair: %v, %v", drifted, err)
	}
}

func TestPortsOfOrphansAreDeletedFromSharedRules(t *testing.T) {
	a := portSpec("a", 80)
	w := newSharedWorld(t, a)
	w.mustEnsure(t, a)
	for _, c := range []struct {
		cluster       string
		deleteOrphans bool
		services      []firewall.Spec
		rules         int
	}{
		{"prod", true, []firewall.Spec{a}, 1}, // Not yet ensured.
		{"prod", false, nil, 1},
		{"another", true, nil, 1},
		{"prod", true, nil, 0},
	} {
		restarted := w.restart(firewall.Shared, c.services...)
		restarted.cluster.ID, restarted.cluster.DeleteOrphans = c.cluster, c.deleteOrphans
		if drifted, err := restarted.Drifted(t.Context()); err != nil || len(drifted) != 0 || len(w.rules(t)) != c.rules {
			t.Errorf("%+v: %v, %v, %d rules", c, drifted, err, len(w.rules(t)))
		}
	}
}

func TestARuleOfASharedNameWithoutOurMarkIsNeverChanged(t *testing.T) {
	a := portSpec("a", 80)
	w := newSharedWorld(t, a)
	w.mustEnsure(t, a)
	name := w.rules(t)[0].Name
	w.request(t, "DELETE", "/"+name, "")
	w.request(t, "POST", "", `{"name":"`+name+`","description":"created by an administrator","allowed":[{"IPProtocol":"icmp"}]}`)
	_, err := w.Ensure(t.Context(), a)
	var notOurs *firewall.NotOursError
	if !errors.As(err, &notOurs) || !strings.Contains(err.Error(), firewall.SharedMarkField) {
		t.Errorf("error %v", err)
	}
	if rules := w.rules(t); len(rules) != 1 || rules[0].Description != "created by an administrator" {
		t.Errorf("rules %v", rules)
	}
}

func TestAThousandServicesWithDefaultRangesFitIntoASmallQuota(t *testing.T) {
	w := newWorld(t, "node")
	w.sim.Set(gcesim.Settings{FirewallQuota: new(20)})
	w.options.Layout = firewall.Shared
	var specs []firewall.Spec
	for i := range uint16(1000) {
		specs = append(specs, portSpec(fmt.Sprint("s", i), 2*i+1))
	}
	w.cluster.Services = ownersOf(specs...)
	for i := 0; i < len(specs); i += 50 { // Calling Ensure for all would only take longer.
		for _, s := range specs[i : i+49] {
			w.needs.set(s.Owner, mustDesired(t, s))
		}
		w.mustEnsure(t, specs[i+49])
	}
	for i := 0; i < len(specs); i += 100 {
		w.mustEnsure(t, specs[i])
	}
	w.wantTraffic(t, 12, specs...)
	for _, r := range w.rules(t) {
		if len(r.Allowed) > firewall.MaxPortRanges {
			t.Errorf("rule %s has %d ranges", r.Name, len(r.Allowed))
		}
	}
}

func mustDesired(t *testing.T, s firewall.Spec) []firewall.Rule {
	t.Helper()
	rules, err := firewall.Desired(s, firewall.Target{Network: "default", Tags: []string{"node"}})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clip(rules)
}

func TestAChangedTagOfANodeIsDriftOfSharedRules(t *testing.T) {
	a := portSpec("a", 80)
	w := newSharedWorld(t, a)
	w.options.Tags = nil // Those that all nodes have.
	w.mustEnsure(t, a)
	w.wantDrifted(t)
	if err := w.sim.UpdateInstance(zone, "n1", func(in *gcesim.Instance) { in.Tags = []string{"fresh"} }); err != nil {
		t.Fatal(err)
	}
	w.tagger = gce.NewInstances(w.api.(*gce.Client), 0) // Without a cached list.
	w.wantDrifted(t, "a")
	w.mustEnsure(t, a)
	w.wantDrifted(t)
	if diff := cmp.Diff(map[string]bool{"[0.0.0.0/0] 10.0.0.1/32 [fresh] tcp:80": true}, traffic(w.rules(t))); diff != "" {
		t.Errorf("traffic (-want +got):\n%s", diff)
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
