package main

import "fmt"

// The largest numbers of requests for one Service, however many Services and nodes there are. Lower
// them when hostport-ccm gets better: what we aim at is in the table.
const (
	maxCreateWrites = 5 // of a direct Service
	// maxStatusWrites is by an event that changes no firewall rule. With a change, an address leaves
	// before, and another comes after it; a mirror changes too.
	maxStatusWrites   = 1
	maxWritesWithRule = 3
	// maxDeleteRequests has the events of the service controller, which the API server refuses in a
	// namespace that is being deleted.
	maxDeleteRequests = 9
	// moreWithNode are for an event of a node, for all Services together.
	moreWithNode = 20
)

// violations returns which numbers of requests of a scene exceed their bounds. It does not look at
// times.
func (r result) violations() []string {
	var list []string
	check := func(p phase, what string, have, bound int) {
		if have > bound {
			list = append(list, fmt.Sprintf("%s, %s: %d %s, want at most %d", r.Scene, p.Name, have, what, bound))
		}
	}
	for _, p := range r.Phases {
		switch p.Name {
		case created:
			check(p, "writes for direct Services", p.DirectWrites, maxCreateWrites*r.Scene.Direct)
		case restarted:
			check(p, fmt.Sprintf("writes (%s)", p.Writes), p.Writes.total(), 0)
		case otherDown, down, up:
			check(p, "writes to one status", p.MostStatusWrites, maxStatusWrites)
			check(p, fmt.Sprintf("reads (%s)", p.Reads), p.Reads.total(), 0)
		case renumbered, gone:
			check(p, fmt.Sprintf("writes (%s)", p.Writes), p.Writes.total(), maxWritesWithRule*p.Services+moreWithNode)
			check(p, "lists of firewall rules", p.Cloud["firewalls.list"], moreWithNode)
			check(p, fmt.Sprintf("reads (%s)", p.Reads), p.Reads.total(), 0)
		case nsDeleted:
			check(p, fmt.Sprintf("requests (%s; %s)", p.Writes, p.Reads), p.Writes.total()+p.Reads.total(), maxDeleteRequests*p.Services)
		}
	}
	return list
}
