package operations

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/firewall/firewalltest"
)

func webSpec() firewall.Spec {
	return firewall.Spec{
		Owner:        firewall.Owner{ClusterID: "alpha", Service: types.NamespacedName{Namespace: "default", Name: "web"}, UID: "web-uid"},
		Ports:        []firewall.Port{{Protocol: "TCP", Port: 80}},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
		Nodes:        []string{"gce://p/z/n1"},
		Addresses:    []netip.Addr{netip.MustParseAddr("10.0.0.1")},
	}
}

// newReconciler waits for operations as long as timeout.
func newReconciler(fw firewall.Firewall, timeout time.Duration) *Reconciler {
	r := New(fw, MaxParallel, nil) // No Service is resumed.
	r.timeout = timeout
	return r
}

func ensure(r *Reconciler, spec firewall.Spec, mode firewall.Mode) error {
	_, err := r.Ensure(context.Background(), spec, mode)
	return err
}

func TestTheFirewallIsCalledOnlyIfSomethingMayHaveChanged(t *testing.T) {
	ctx, calls := context.Background(), 0
	var failure error
	fw := &firewalltest.Fake{}
	fw.FailWith(func(string, firewall.Owner) error { calls++; return failure })
	r := newReconciler(fw, time.Minute)
	spec := webSpec()
	managed := func() error { return ensure(r, spec, firewall.Managed) }
	none := func() error { return ensure(r, spec, firewall.None) }
	for _, step := range []struct {
		name  string
		do    func() error
		calls int
	}{
		{"first", managed, 1},
		{"again", managed, 0},
		{"other ports", func() error { spec.Ports = []firewall.Port{{Protocol: "TCP", Port: 81}}; return managed() }, 1},
		{"mode none", none, 1},
		{"mode none again", none, 0},
		{"mode managed again", managed, 1},
		{"after drift", func() error { r.markStale(spec.Owner); return managed() }, 1},
		{"after the repair", managed, 0},
		{"deleted", func() error { return r.Delete(ctx, spec.Owner, firewall.Managed) }, 1},
		{"deleted again, while proxies drain", func() error { return r.Delete(ctx, spec.Owner, firewall.Managed) }, 0},
		{"released", func() error { return r.Delete(ctx, spec.Owner, firewall.Report) }, 1},
		{"after deletion", managed, 1},
		{"deleted after that", func() error { return r.Delete(ctx, spec.Owner, firewall.Managed) }, 1},
		{"after the second deletion", managed, 1},
		{"failing", func() error {
			spec.Ports = []firewall.Port{{Protocol: "TCP", Port: 82}}
			failure = errors.New("down")
			return managed()
		}, 1},
		{"after a failure", func() error { failure = nil; return managed() }, 1},
	} {
		before := calls
		if err := step.do(); !errors.Is(err, failure) {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := calls - before; got != step.calls {
			t.Errorf("%s: %d calls, want %d", step.name, got, step.calls)
		}
	}
}

func TestAServiceThatDidNotWaitIsResumedForTheOutcome(t *testing.T) {
	answer, resumed := make(chan error), make(chan types.NamespacedName)
	fw := &firewalltest.Fake{}
	fw.FailWith(func(string, firewall.Owner) error { return <-answer })
	r := New(fw, MaxParallel, func(name types.NamespacedName) { resumed <- name })
	r.timeout = 0
	spec := webSpec()
	down := errors.New("down")
	wantInProgress := func(previous error) {
		t.Helper()
		var inProgress *InProgressError
		if err := ensure(r, spec, firewall.Managed); !errors.As(err, &inProgress) || !errors.Is(inProgress.Previous, previous) {
			t.Fatalf("got %v, %v; want it in progress after %v", err, inProgress, previous)
		}
	}
	outcome := func(err error) {
		t.Helper()
		answer <- err
		if name := <-resumed; name != spec.Owner.Service {
			t.Fatalf("resumed %s", name)
		}
	}
	wantInProgress(nil)
	wantInProgress(nil) // Without a second call, which nobody would answer.
	outcome(down)
	if err := ensure(r, spec, firewall.Managed); !errors.Is(err, down) {
		t.Fatalf("got %v, want the outcome", err)
	}
	wantInProgress(down)
	spec.Ports = []firewall.Port{{Protocol: "TCP", Port: 81}}
	wantInProgress(down)
	outcome(nil)
	wantInProgress(nil) // For the other ports.
	deletion := func() error { return r.Delete(t.Context(), spec.Owner, firewall.Managed) }
	for range maxBlockingDeletes { // Other Services that are being deleted.
		r.blockingDeletes <- struct{}{}
	}
	for _, failure := range []error{nil, down} { // The first is that of Ensure.
		for range 2 {
			if err := deletion(); !errors.Is(err, ErrInProgress) {
				t.Fatalf("got %v, want it in progress", err)
			}
		}
		outcome(failure)
	}
	if err := deletion(); !errors.Is(err, down) {
		t.Fatalf("got %v, want the outcome", err)
	}
	if err := deletion(); !errors.Is(err, ErrInProgress) {
		t.Fatalf("got %v, want another try in progress", err)
	}
	outcome(nil)
	if err := deletion(); err != nil || len(fw.Rules()) > 0 {
		t.Errorf("deleted: %v, rules: %v", err, fw.Rules())
	}
}

func TestADeletionBlocksIfFewDo(t *testing.T) {
	fw := &firewalltest.Fake{}
	r := newReconciler(fw, time.Minute)
	spec := webSpec()
	if err := ensure(r, spec, firewall.Managed); err != nil {
		t.Fatal(err)
	}
	r.timeout = 0
	for range 2 * maxBlockingDeletes {
		if err := r.Delete(t.Context(), spec.Owner, firewall.Managed); err != nil || len(fw.Rules()) > 0 {
			t.Errorf("deleted: %v, rules: %v", err, fw.Rules())
		}
	}
}

func TestInReportModeTheCommandsAreReturnedUntilDrift(t *testing.T) {
	fw := &firewalltest.Fake{}
	r := newReconciler(fw, time.Minute)
	spec := webSpec()
	var manual *firewall.ManualChangeError
	for range 2 {
		if err := ensure(r, spec, firewall.Report); !errors.As(err, &manual) || len(manual.Commands) != 1 {
			t.Errorf("got %v, want one command", err)
		}
	}
	rules, err := firewall.Desired(spec, firewall.Target{Network: "fake", Tags: []string{"node"}})
	if err != nil {
		t.Fatal(err)
	}
	fw.SetRule(rules[0]) // As the command does.
	r.enqueueDrifted(t.Context(), func(firewall.Owner) {})
	if err := ensure(r, spec, firewall.Report); err != nil || fw.Writes() != 0 {
		t.Errorf("after the command: %v, %d writes", err, fw.Writes())
	}
}

func TestDriftIsDetectedAndRepairedAlsoAfterAFailure(t *testing.T) {
	fw := &firewalltest.Fake{}
	r := newReconciler(fw, time.Minute)
	spec := webSpec()
	if err := ensure(r, spec, firewall.Managed); err != nil {
		t.Fatal(err)
	}
	name := firewall.RuleName(spec.Owner, firewall.IPv4)
	failed := make(chan struct{}, 1)
	fw.FailWith(func(method string, _ firewall.Owner) error {
		if method != "Drifted" {
			return nil
		}
		fw.FailWith(nil)
		fw.RemoveRule(name)
		failed <- struct{}{}
		return errors.New("down")
	})
	ctx, cancel := context.WithCancel(t.Context())
	enqueued, done := make(chan firewall.Owner), make(chan struct{})
	go func() {
		defer close(done)
		r.DetectDrift(ctx, time.Millisecond, func(owner firewall.Owner) {
			select {
			case enqueued <- owner:
			case <-ctx.Done():
			}
		})
	}()
	<-failed
	if owner := <-enqueued; owner != spec.Owner {
		t.Errorf("enqueued %v", owner)
	}
	cancel()
	<-done
	result, err := r.Ensure(t.Context(), spec, firewall.Managed)
	if err != nil || !result.Repaired || len(result.Changes) != 1 {
		t.Errorf("got %+v, %v, want a repair", result, err)
	}
	if _, exists := fw.Rules()[name]; !exists {
		t.Errorf("rules %v", fw.Rules())
	}
}

func TestOrphansAreDeletedUnlessAnAdministratorDeletesRules(t *testing.T) {
	fw := &firewalltest.Fake{}
	r := newReconciler(fw, time.Minute)
	spec := webSpec()
	if err := ensure(r, spec, firewall.Managed); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		mode    firewall.Mode
		owners  int
		deleted bool
	}{{firewall.Report, 0, false}, {firewall.Managed, 1, true}, {firewall.Managed, 0, false}} {
		owners, err := r.Owners(t.Context(), spec.Owner.ClusterID, step.mode)
		if err != nil || len(owners) != step.owners {
			t.Errorf("%s: owners %v, %v", step.mode, owners, err)
		}
		if deleted, err := r.DeleteOrphan(t.Context(), spec.Owner, step.mode); err != nil || deleted != step.deleted {
			t.Errorf("%s: deleted %v, %v", step.mode, deleted, err)
		}
	}
	if rules := fw.Rules(); len(rules) > 0 {
		t.Errorf("rules %v", rules)
	}
}

func TestAPortMayBeAllowedUntilAStateWithoutItIsApplied(t *testing.T) {
	fw := &firewalltest.Fake{}
	r := newReconciler(fw, time.Minute)
	spec := webSpec()
	port80, port443 := firewall.Port{Protocol: "TCP", Port: 80}, firewall.Port{Protocol: "TCP", Port: 443}
	want := func(when string, may80, may443 bool) {
		t.Helper()
		if got80, got443 := r.MayAllow(spec.Owner, []firewall.Port{port80}), r.MayAllow(spec.Owner, []firewall.Port{port443}); got80 != may80 || got443 != may443 {
			t.Errorf("%s: 80 %v, 443 %v", when, got80, got443)
		}
		if r.MayAllow(spec.Owner, nil) {
			t.Errorf("%s: no port may be allowed", when)
		}
	}
	want("after a start", true, true)
	if err := ensure(r, spec, firewall.Managed); err != nil {
		t.Fatal(err)
	}
	want("with port 80 applied", true, false)
	fw.FailWith(func(string, firewall.Owner) error { return errors.New("503") })
	spec.Ports = []firewall.Port{port443}
	if err := ensure(r, spec, firewall.Managed); err == nil {
		t.Fatal("no error")
	}
	want("after a failure", true, true)
	fw.FailWith(nil)
	if err := ensure(r, spec, firewall.Managed); err != nil {
		t.Fatal(err)
	}
	want("with port 443 applied", false, true)
}
