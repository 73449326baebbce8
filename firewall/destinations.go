package firewall

import (
	"net/netip"
	"slices"
	"sync"
)

// Destinations are addresses as the destination ranges of rules, by IP family.
type Destinations map[Family][]string

// DestinationsOf returns the destination ranges for addresses: for a family with more than
// MaxDestinationRanges an empty list, for one without addresses none.
func DestinationsOf(addresses []netip.Addr) Destinations {
	var prefixes []netip.Prefix
	for _, a := range addresses {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	d := Destinations{}
	for _, family := range []Family{IPv4, IPv6} {
		if ranges := rangesOf(family, prefixes); len(ranges) > 0 {
			d[family] = withinLimit(ranges)
		}
	}
	return d
}

// withinLimit returns destination ranges, or none if a rule cannot have so many.
func withinLimit(destinations []string) []string {
	if len(destinations) > MaxDestinationRanges {
		return nil
	}
	return destinations
}

// RecentDestinations remembers the destinations of the last few lists of addresses: most Services have
// the same nodes, and share them in memory. It is safe for concurrent use. The zero value is ready.
type RecentDestinations struct {
	mu     sync.Mutex
	recent []recentDestinations
}

type recentDestinations struct {
	addresses    []netip.Addr
	destinations Destinations
}

// maxRecentDestinations is for a few node selections before and after a change of nodes.
const maxRecentDestinations = 16

// Of returns the destinations of addresses, which must not be changed afterwards.
func (r *RecentDestinations) Of(addresses []netip.Addr) Destinations {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.recent, func(known recentDestinations) bool { return slices.Equal(known.addresses, addresses) })
	if i >= 0 {
		return r.recent[i].destinations
	}
	if len(r.recent) == maxRecentDestinations {
		r.recent = slices.Delete(r.recent, 0, 1)
	}
	r.recent = append(r.recent, recentDestinations{addresses, DestinationsOf(addresses)})
	return r.recent[len(r.recent)-1].destinations
}
