package provider

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/trigger"
)

func TestTheFirewallIsAskedWhenSomethingMayHaveChanged(t *testing.T) {
	ctx, asked := context.Background(), 0
	var failure error
	fw := &firewall.Fake{}
	fw.FailWith(func(string, firewall.Owner) error { asked++; return failure })
	o := newOpenings(fw, nil)
	o.patience = time.Minute
	spec := specOfWeb()
	for _, step := range []struct {
		name  string
		do    func() error
		asked int
	}{
		{"first", func() error { return ensure(o, spec, true) }, 1},
		{"again", func() error { return ensure(o, spec, true) }, 0},
		{"other ports", func() error { spec.Ports[0].Port = 81; return ensure(o, spec, true) }, 1},
		{"not managed", func() error { return ensure(o, spec, false) }, 1},
		{"still not managed", func() error { return ensure(o, spec, false) }, 0},
		{"managed again", func() error { return ensure(o, spec, true) }, 1},
		{"after somebody changed it", func() error { o.doubt(spec.Owner.UID); return ensure(o, spec, true) }, 1},
		{"after it was looked at", func() error { return ensure(o, spec, true) }, 0},
		{"closed", func() error { return o.close(ctx, spec.Owner, options.FirewallManaged) }, 1},
		{"closed by hand", func() error { return o.close(ctx, spec.Owner, options.FirewallReport) }, 1},
		{"after closing", func() error { return ensure(o, spec, true) }, 1},
		{"failing", func() error { spec.Ports[0].Port = 82; failure = errors.New("down"); return ensure(o, spec, true) }, 1},
		{"after a failure", func() error { failure = nil; return ensure(o, spec, true) }, 1},
	} {
		before := asked
		if err := step.do(); !errors.Is(err, failure) {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := asked - before; got != step.asked {
			t.Errorf("%s: asked %d times, want %d", step.name, got, step.asked)
		}
	}
}

func specOfWeb() firewall.Spec {
	return firewall.Spec{
		Owner:        firewall.Owner{ClusterID: "alpha", Service: types.NamespacedName{Namespace: "default", Name: "web"}, UID: "web-uid"},
		Ports:        []firewall.Port{{Protocol: "TCP", Port: 80}},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
		Nodes:        []string{"gce://p/z/n1"},
	}
}

func ensure(o *openings, spec firewall.Spec, managed bool) error {
	mode := options.FirewallNone
	if managed {
		mode = options.FirewallManaged
	}
	_, _, err := o.ensure(context.Background(), spec, mode)
	return err
}

func TestWhoDoesNotWaitForTheFirewallComesBackForTheOutcome(t *testing.T) {
	answer, poked := make(chan error), make(chan types.NamespacedName)
	fw := &firewall.Fake{}
	fw.FailWith(func(string, firewall.Owner) error { return <-answer })
	o := newOpenings(fw, func(name types.NamespacedName) { poked <- name })
	o.patience = 0
	spec := specOfWeb()
	down := errors.New("down")
	wantUnderWay := func(before error) {
		t.Helper()
		var underWay *underWayError
		if err := ensure(o, spec, true); !errors.As(err, &underWay) || !errors.Is(underWay.before, before) {
			t.Fatalf("got %v, %v; want it under way after %v", err, underWay, before)
		}
	}
	outcome := func(err error) {
		t.Helper()
		answer <- err
		if name := <-poked; name != spec.Owner.Service {
			t.Fatalf("poked %s", name)
		}
	}
	wantUnderWay(nil)
	wantUnderWay(nil) // And not asked twice: nobody would answer.
	outcome(down)
	if err := ensure(o, spec, true); !errors.Is(err, down) {
		t.Fatalf("got %v, want the outcome", err)
	}
	wantUnderWay(down)
	spec.Ports[0].Port = 81
	wantUnderWay(down)
	outcome(nil)
	wantUnderWay(nil) // Of the other ports.
	closing := func() error { return o.close(t.Context(), spec.Owner, options.FirewallManaged) }
	for range waitForClosing { // Others that are being deleted.
		_, leave := o.wait(t.Context())
		defer leave()
	}
	for _, failure := range []error{nil, down} { // The first is of the opening.
		for range 2 {
			if err := closing(); !errors.Is(err, trigger.ErrUnderWay) {
				t.Fatalf("got %v, want it under way", err)
			}
		}
		outcome(failure)
	}
	if err := closing(); !errors.Is(err, down) {
		t.Fatalf("got %v, want the outcome", err)
	}
	if err := closing(); !errors.Is(err, trigger.ErrUnderWay) {
		t.Fatalf("got %v, want another try under way", err)
	}
	outcome(nil)
	if err := closing(); err != nil || len(fw.Rules()) > 0 {
		t.Errorf("closed: %v, open: %v", err, fw.Rules())
	}
}

func TestADeletionWaitsForTheFirewallIfFewDo(t *testing.T) {
	fw := &firewall.Fake{}
	o := newOpenings(fw, nil) // Nobody is resumed.
	o.patience = time.Minute
	spec := specOfWeb()
	if err := ensure(o, spec, true); err != nil {
		t.Fatal(err)
	}
	o.patience = 0
	for range 2 * waitForClosing {
		if err := o.close(t.Context(), spec.Owner, options.FirewallManaged); err != nil || len(fw.Rules()) > 0 {
			t.Errorf("closed: %v, open: %v", err, fw.Rules())
		}
	}
}
