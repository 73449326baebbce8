package provider

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestTheFirewallIsAskedWhenSomethingMayHaveChanged(t *testing.T) {
	ctx, asked := context.Background(), 0
	var failure error
	fw := &firewall.Fake{}
	fw.FailWith(func(string, firewall.Owner) error { asked++; return failure })
	o := newOpenings(fw)
	spec := firewall.Spec{
		Owner:        firewall.Owner{ClusterID: "alpha", Service: types.NamespacedName{Namespace: "default", Name: "web"}, UID: "web-uid"},
		Ports:        []firewall.Port{{Protocol: "TCP", Port: 80}},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
		Nodes:        []string{"gce://p/z/n1"},
	}
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

func ensure(o *openings, spec firewall.Spec, managed bool) error {
	mode := options.FirewallNone
	if managed {
		mode = options.FirewallManaged
	}
	_, _, err := o.ensure(context.Background(), spec, mode)
	return err
}
