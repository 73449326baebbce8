package reachability

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Families are the IP families in which packets to a node do not reach a proxy, by the nodes' names.
type Families map[string][]v1.IPFamily

// finding is a port that packets do not reach.
type finding struct {
	place
	port port
	last outcome
}

// decide decides about all suspicions.
func (d *detector) decide(now time.Time) {
	var decided []*groupState
	for where, s := range d.places {
		for of, g := range s.groups {
			if g.suspicion != nil && !g.unreachable && g.suspicion.failed >= failures && d.holds(now, where, of, g) {
				decided = append(decided, g)
			}
		}
	}
	for _, g := range decided { // After the loop: a decision must not depend on its order.
		g.unreachable = true
	}
}

// holds reports whether a suspicion with enough failed attempts is confirmed.
func (d *detector) holds(now time.Time, where place, of group, g *groupState) bool {
	if s := g.suspicion; s.silent && (g.reached.IsZero() || !d.anyOther(where, of, func(other *groupState) bool { return other.reached.After(s.since) })) {
		return false
	}
	pending := d.anyOther(where, of, func(other *groupState) bool {
		if s := other.suspicion; s != nil {
			return s.failed < failures
		}
		return other.attempt.seemsFailed()
	})
	return !pending || now.Sub(g.suspicion.decided) >= patience
}

// needsControl reports whether a suspicion about another node of the Service needs to know whether
// this process reaches this one.
func (d *detector) needsControl(where place, of group) bool {
	return d.anyOther(where, of, func(other *groupState) bool {
		return other.suspicion != nil && other.suspicion.silent && !other.unreachable && !other.reached.IsZero()
	})
}

// anyOther reports whether ok holds for the group at any place of the Service on another node.
func (d *detector) anyOther(where place, of group, ok func(*groupState) bool) bool {
	for other, s := range d.places {
		if other.service != where.service || other.node == where.node {
			continue
		}
		if g := s.groups[of]; g != nil && ok(g) {
			return true
		}
	}
	return false
}

// unreachable returns the IP families in which packets do not reach a proxy, by Service and node.
func (d *detector) unreachable() map[types.UID]Families {
	all := map[types.UID]Families{}
	for where, findings := range d.findings() {
		for _, f := range findings {
			families := all[where.service]
			if families == nil {
				families = Families{}
				all[where.service] = families
			}
			if !slices.Contains(families[where.node], f.port.family) {
				families[where.node] = append(families[where.node], f.port.family)
				slices.Sort(families[where.node])
			}
		}
	}
	return all
}

// findings returns the ports that packets do not reach, by place.
func (d *detector) findings() map[place][]finding {
	all := map[place][]finding{}
	for where, s := range d.places {
		for _, g := range s.groups {
			if g.unreachable {
				all[where] = append(all[where], finding{where, g.suspicion.port, g.suspicion.last})
			}
		}
		slices.SortFunc(all[where], func(a, b finding) int { return comparePorts(a.port, b.port) })
	}
	return all
}

// answers reports whether packets reach the proxy at a place in any IP family, as far as known.
func (s *placeState) answers() bool {
	unreachable := map[v1.IPFamily]bool{}
	for of, g := range s.groups {
		unreachable[of.family] = unreachable[of.family] || g.unreachable
	}
	return len(unreachable) == 0 || slices.Contains(slices.Collect(maps.Values(unreachable)), false)
}

// nextChecks returns at most max of the places that are to be checked now: first those under
// suspicion, then the others by the time for which they are due. It does not sort all of them, which may
// be ten thousands.
func (d *detector) nextChecks(now time.Time, places []place, max int) []place {
	type candidate struct {
		place
		rank int
		due  time.Time
	}
	compare := func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), a.due.Compare(b.due), comparePlaces(a.place, b.place))
	}
	var first []candidate
	for _, p := range places {
		s := d.places[p]
		if s.due.After(now) {
			continue
		}
		c := candidate{p, 1, s.due}
		if s.isSuspected() {
			c.rank = 0
		}
		if i, _ := slices.BinarySearchFunc(first, c, compare); i < max {
			first = slices.Insert(first, i, c)
			first = first[:min(max, len(first))]
		}
	}
	var next []place
	for _, c := range first {
		next = append(next, c.place)
	}
	return next
}
