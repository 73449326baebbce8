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
)

// TestTheFakeBehavesLikeTheRealOne gives both the same calls, and wants the
// same answers.
func TestTheFakeBehavesLikeTheRealOne(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		real, fake := newWorld(outer, "node"), &firewall.Fake{}
		draw := func(t *rapid.T) firewall.Spec {
			s := testSpec()
			s.Owner.UID = rapid.SampledFrom([]types.UID{"u1", "u2"}).Draw(t, "owner")
			port := rapid.Custom(func(t *rapid.T) firewall.Port {
				return firewall.Port{Protocol: rapid.SampledFrom([]v1.Protocol{"TCP", "UDP", "SCTP"}).Draw(t, "protocol"), Port: rapid.Uint16Range(1, 4).Draw(t, "port")}
			})
			s.Ports = rapid.SliceOfN(port, 0, 4).Draw(t, "ports")
			ranges := rapid.SampledFrom([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.1/8"), netip.MustParsePrefix("::/0")})
			s.SourceRanges = rapid.SliceOfN(ranges, 0, 3).Draw(t, "ranges")
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
			"abandon": func(t *rapid.T) {
				s := draw(t)
				want, got := commandsIn(fake.Abandon(t.Context(), s.Owner)), commandsIn(real.Abandon(t.Context(), s.Owner))
				if want != got {
					t.Errorf("fake has %d commands, real %d", want, got)
				}
			},
			"report": func(t *rapid.T) {
				s := draw(t)
				s.Report = true
				told, errFake := fake.Ensure(t.Context(), s)
				more, errReal := real.Ensure(t.Context(), s)
				if commandsIn(errFake) != commandsIn(errReal) || len(told)+len(more) > 0 {
					t.Errorf("fake: %v, real: %v, changes %v", errFake, errReal, append(told, more...))
				}
			},
			"exists": func(t *rapid.T) {
				s := draw(t)
				want, errFake := fake.Exists(t.Context(), s.Owner)
				got, errReal := real.Exists(t.Context(), s.Owner)
				if want != got || errFake != nil || errReal != nil {
					t.Errorf("fake says %v, %v, real %v, %v", want, errFake, got, errReal)
				}
			},
		})
	})
}

// commandsIn counts what is to be done by hand; -1: err says something else.
func commandsIn(err error) int {
	var byHand *firewall.ByHandError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &byHand):
		return len(byHand.Commands)
	}
	return -1
}
