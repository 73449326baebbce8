package gce

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/firewall/firewalltest"
)

// TestTheFakeBehavesLikeTheRealFirewall makes the same calls to both and compares
// the results.
func TestTheFakeBehavesLikeTheRealFirewall(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		real, fake := newWorld(outer, "node"), &firewalltest.Fake{}
		draw := func(t *rapid.T) firewall.Spec {
			s := testSpec()
			s.Owner.UID = rapid.SampledFrom([]types.UID{"u1", "u2"}).Draw(t, "owner")
			port := rapid.Custom(func(t *rapid.T) firewall.Port {
				return firewall.Port{Protocol: rapid.SampledFrom([]v1.Protocol{"TCP", "UDP", "SCTP"}).Draw(t, "protocol"), Port: rapid.Uint16Range(1, 4).Draw(t, "port")}
			})
			s.Ports = rapid.SliceOfN(port, 0, 4).Draw(t, "ports")
			ranges := rapid.SampledFrom([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.1/8"), netip.MustParsePrefix("::/0")})
			s.SourceRanges = rapid.SliceOfN(ranges, 0, 3).Draw(t, "ranges")
			address := rapid.SampledFrom(addresses("10.0.0.1", "10.0.0.2", "10.0.0.3", "203.0.113.1", "2001:db8::1", "2001:db8::2"))
			s.Addresses = rapid.SliceOfN(address, 0, 8).Draw(t, "addresses")
			return s
		}
		t.Repeat(map[string]func(*rapid.T){
			"ensure": func(t *rapid.T) {
				s := draw(t)
				want, errFake := fake.Ensure(t.Context(), s)
				got, errReal := real.Ensure(t.Context(), s)
				if diff := cmp.Diff(want, got); diff != "" || errFake != nil || errReal != nil {
					t.Errorf("changes (-fake +real):\n%s%v, %v", diff, errFake, errReal)
				}
			},
			"delete": func(t *rapid.T) {
				s := draw(t)
				if errFake, errReal := fake.Delete(t.Context(), s.Owner), real.Delete(t.Context(), s.Owner); errFake != nil || errReal != nil {
					t.Errorf("%v, %v", errFake, errReal)
				}
			},
			"release": func(t *rapid.T) {
				s := draw(t)
				want, got := commandsIn(fake.Release(t.Context(), s.Owner)), commandsIn(real.Release(t.Context(), s.Owner))
				if want != got {
					t.Errorf("fake has %d commands, real %d", want, got)
				}
			},
			"report": func(t *rapid.T) {
				s := draw(t)
				s.Report = true
				want, errFake := fake.Ensure(t.Context(), s)
				got, errReal := real.Ensure(t.Context(), s)
				if commandsIn(errFake) != commandsIn(errReal) || len(want)+len(got) > 0 {
					t.Errorf("fake: %v, real: %v, changes %v", errFake, errReal, append(want, got...))
				}
			},
			"exists": func(t *rapid.T) {
				s := draw(t)
				want, errFake := fake.Exists(t.Context(), s.Owner)
				got, errReal := real.Exists(t.Context(), s.Owner)
				if want != got || errFake != nil || errReal != nil {
					t.Errorf("fake returns %v, %v, real %v, %v", want, errFake, got, errReal)
				}
			},
		})
	})
}

// commandsIn returns the number of commands in err, -1 for other errors.
func commandsIn(err error) int {
	var manual *firewall.ManualChangeError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &manual):
		return len(manual.Commands)
	}
	return -1
}
