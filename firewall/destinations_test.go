package firewall

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestServicesOnTheSameNodesShareDestinations(t *testing.T) {
	list := func(addresses ...string) (parsed []netip.Addr) {
		for _, a := range addresses {
			parsed = append(parsed, netip.MustParseAddr(a))
		}
		return parsed
	}
	recent := &RecentDestinations{}
	got := recent.Of(list("10.0.0.2", "10.0.0.1", "2001:db8::1"))
	want := Destinations{IPv4: {"10.0.0.1/32", "10.0.0.2/32"}, IPv6: {"2001:db8::1/128"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("destinations differ (-want +got):\n%s", diff)
	}
	if again := recent.Of(list("10.0.0.2", "10.0.0.1", "2001:db8::1")); &again[IPv4][0] != &got[IPv4][0] {
		t.Error("the same addresses have another list")
	}
	for i := range 2 * maxRecentDestinations {
		addresses := list("10.0.0.1", "10.0.1."+string(rune('0'+i%10)))
		if diff := cmp.Diff(DestinationsOf(addresses), recent.Of(addresses)); diff != "" {
			t.Errorf("destinations of %v differ (-want +got):\n%s", addresses, diff)
		}
	}
	if len(recent.recent) > maxRecentDestinations {
		t.Errorf("%d lists are remembered", len(recent.recent))
	}
}
