package gce

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// wantUpdates wants so many changes, each an update of a rule in place.
func (w world) wantUpdates(t *testing.T, n int, spec firewall.Spec) {
	t.Helper()
	w.sim.ForgetRequests()
	w.mustEnsure(t, spec)
	verbs := map[string]int{"firewalls.patch": 0}
	for _, r := range w.sim.Requests() {
		if r.IsWrite() {
			verbs[r.Verb]++
		}
	}
	if diff := cmp.Diff(map[string]int{"firewalls.patch": n}, verbs); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestANodeThatJoinsOrLeavesUpdatesTheRulesInPlace(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	grown, shrunk := testSpec(), testSpec()
	grown.Addresses = append(grown.Addresses, addresses("10.0.0.3", "203.0.113.3")...)
	shrunk.Addresses = addresses("10.0.0.1", "2001:db8::1")
	w.wantUpdates(t, 1, grown)
	w.wantRules(t, grown, "node")
	w.wantUpdates(t, 2, shrunk)
	w.wantRules(t, shrunk, "node")
}

func TestRulesWithoutDestinationsAreNarrowedInPlace(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	for _, rule := range w.rules(t) {
		w.edit(t, rule.Name, `{"destinationRanges":null}`)
	}
	w.wantUpdates(t, 2, testSpec())
	w.wantRules(t, testSpec(), "node")
}

func TestARuleForMoreNodesThanItCanNameHasEveryDestination(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	s := testSpec()
	for n := s.Addresses[0]; len(s.Addresses) <= firewall.MaxDestinationRanges+6; n = n.Next() {
		s.Addresses = append(s.Addresses, n)
	}
	w.wantUpdates(t, 1, s)
	w.wantRules(t, s, "node")
	w.wantUpdates(t, 1, testSpec())
}

func TestServicesOfOneNodeSelectionShareRulesThatFollowTheirNodes(t *testing.T) {
	a, b, one := portSpec("a", 80), portSpec("b", 443), portSpec("one", 8080)
	one.NodeSelection, one.Addresses = "pool=one", addresses("10.0.0.2")
	w := newSharedWorld(t, a, b, one)
	for _, s := range []firewall.Spec{a, b, one} {
		w.mustEnsure(t, s)
	}
	w.wantTraffic(t, 2, a, b, one)

	// A node joins.
	a.Addresses, b.Addresses = addresses("10.0.0.1", "10.0.0.3"), addresses("10.0.0.1", "10.0.0.3")
	w.wantUpdates(t, 1, a)
	w.wantUpdates(t, 0, b)
	w.wantTraffic(t, 2, a, b, one)

	// It leaves: its address stays until it serves none of them.
	both := b
	a.Addresses, b.Addresses = addresses("10.0.0.1"), addresses("10.0.0.1")
	w.wantUpdates(t, 0, a)
	w.wantUpdates(t, 1, b)
	w.wantTraffic(t, 2, a, b, one)
	w.wantDrifted(t)
	w.mustEnsure(t, both)
	if err := w.Delete(t.Context(), both.Owner); err != nil {
		t.Fatal(err)
	}
	w.wantTraffic(t, 2, a, one)
}

func TestASharedRuleWithoutDestinationsIsNarrowedWhenAllItsServicesAreKnown(t *testing.T) {
	a, b := portSpec("a", 80), portSpec("b", 443)
	w := newSharedWorld(t, a, b)
	w.mustEnsure(t, a)
	w.mustEnsure(t, b)
	w.edit(t, w.rules(t)[0].Name, `{"destinationRanges":null}`)
	w = w.restart(firewall.Shared, a, b)
	w.wantUpdates(t, 0, a)
	w.wantUpdates(t, 1, b)
	w.wantTraffic(t, 1, a, b)
}
