package gce

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/compute/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

func TestOwnersOfThisClusterAreFoundInOneRequest(t *testing.T) {
	w := newWorld(t)
	ours, theirs, other := testSpec(), testSpec(), testSpec()
	theirs.Owner.ClusterID = "prod-2" // It contains ours.
	other.Owner.UID, other.Owner.Service.Name = "uid-2", "blog"
	for _, spec := range []firewall.Spec{ours, theirs, other} {
		w.mustEnsure(t, spec)
	}
	manual := &compute.Firewall{Name: "manual", Description: "for prod", Allowed: []*compute.FirewallAllowed{{IPProtocol: "icmp"}}}
	if err := w.api.InsertFirewall(t.Context(), manual); err != nil {
		t.Fatal(err)
	}
	before := len(w.sim.Requests())
	got, err := w.Owners(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]firewall.Owner{other.Owner, ours.Owner}, got); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	if requests := w.sim.Requests()[before:]; len(requests) != 1 || requests[0].Verb != "firewalls.list" {
		t.Errorf("requests: %v", requests)
	}
}

func TestOwnersThatCannotBeListedAreAnError(t *testing.T) {
	for _, kind := range []gcesim.FaultKind{gcesim.FaultForbidden, gcesim.FaultUnavailable} {
		w := newWorld(t)
		w.mustEnsure(t, testSpec())
		if err := w.sim.AddFault(gcesim.Fault{Kind: kind, Verb: "firewalls.list"}); err != nil {
			t.Fatal(err)
		}
		if got, err := w.Owners(t.Context(), "prod"); err == nil || got != nil {
			t.Errorf("%s: got %v, %v", kind, got, err)
		}
	}
}
