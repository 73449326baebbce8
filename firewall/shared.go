package firewall

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Layout is how Services are spread over rules.
type Layout string

// The layouts.
const (
	// PerService gives each Service rules of its own.
	PerService Layout = "per-service"
	// Shared puts the ports of Services with equal source ranges, target tags and
	// node selections into the same rules, for projects with many Services and a small quota.
	Shared Layout = "shared"
)

// MaxPortRanges is the number of ports or port ranges per protocol that our
// rules have at most. Google documents no limit; 100 are known to work.
const MaxPortRanges = 100

// maxDescription is the longest description that GCE accepts.
const maxDescription = 2048

// AssignSharedRules returns the shared rules that a cluster should have. have
// are those that exist; wanted are the rules that its Services would have in the
// layout PerService. Ports of the Services in keep stay as they are. Ports of all
// others that are not wanted are removed. A port stays in its rule, so that no
// port is closed because it moves.
func AssignSharedRules(clusterID string, have, wanted []Rule, keep []Owner) []Rule {
	kept := map[string]bool{}
	for _, owner := range keep {
		kept[serviceHash(owner)] = true
	}
	return assignSharedRules(clusterID, have, wanted, func(service string) bool { return kept[service] })
}

// ReleaseSharedRules returns the steps that remove owner's ports from have, the
// shared rules that exist, and change nothing else.
func ReleaseSharedRules(owner Owner, have []Rule) []Change {
	want := assignSharedRules(owner.ClusterID, have, nil, func(service string) bool { return service != serviceHash(owner) })
	return slices.DeleteFunc(SharedRuleChanges(have, want), func(c Change) bool {
		return slices.ContainsFunc(have, func(h Rule) bool { return h.Name == c.Rule.Name && !h.IsSharedBy(owner) })
	})
}

// SharedRuleChanges returns the steps from have to want, both shared rules.
// Steps that allow traffic come first, then those that only narrow a rule, then
// those that delete one.
func SharedRuleChanges(have, want []Rule) []Change {
	steps := changesBetween(have, want, func(Rule) bool { return true })
	order := func(c Change) int {
		i := slices.IndexFunc(have, func(h Rule) bool { return h.Name == c.Rule.Name })
		switch {
		case c.Action == Remove:
			return 2
		case i >= 0 && len(subtract(c.Rule.Allowed, have[i].Allowed)) == 0 && c.Rule.isWithinDestinations(have[i]):
			return 1
		}
		return 0
	}
	slices.SortStableFunc(steps, func(a, b Change) int { return order(a) - order(b) })
	return steps
}

// isWithinDestinations reports whether other has all destinations of the rule.
func (r Rule) isWithinDestinations(other Rule) bool {
	if len(r.DestinationRanges) == 0 || len(other.DestinationRanges) == 0 {
		return len(other.DestinationRanges) == 0
	}
	return len(without(r.DestinationRanges, other.DestinationRanges)) == 0
}

// assignSharedRules keeps the ports of the services for which keep returns true,
// by serviceHash.
func assignSharedRules(clusterID string, have, wanted []Rule, keep func(service string) bool) []Rule {
	groups := map[string]*sharedGroup{}
	group := func(key string) *sharedGroup {
		if groups[key] == nil {
			groups[key] = &sharedGroup{mark: sharedMark{ClusterID: clusterID, Key: key}, wanted: map[ownedPort]bool{}}
		}
		return groups[key]
	}
	for _, r := range slices.SortedFunc(slices.Values(have), func(a, b Rule) int { return strings.Compare(a.Name, b.Name) }) {
		if m, err := parseSharedMark(r.Description); err == nil && m.ClusterID == clusterID {
			group(m.Key).addExisting(r, m, keep)
		}
	}
	for _, r := range wanted {
		group(sharedKey(r)).addWanted(r)
	}
	var rules []Rule
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		rules = append(rules, groups[key].rules()...)
	}
	return rules
}

// sharedGroup is the Services with one sharedKey.
type sharedGroup struct {
	mark sharedMark // Without ports.
	// existing are the rules of the group, and existingPorts the ports that each of them holds.
	existing      []Rule
	existingPorts []map[ownedPort]bool
	// hasKept has for each existing rule whether it holds ports that are kept.
	hasKept []bool
	// wanted are the ports that the rules are to hold. template is one of the rules that the
	// Services would have in the layout PerService; nil: none is known.
	wanted   map[ownedPort]bool
	template *Rule
	// destinations are the destination ranges of all rules that the Services would have.
	destinations destinationSet
}

// destinationSet collects the destination ranges of rules.
type destinationSet struct {
	ranges map[string]bool
	// last is what was added last, as many Services have the same nodes.
	last []string
	// every is true if a rule has every destination.
	every bool
}

func (d *destinationSet) add(r Rule) {
	d.every = d.every || len(r.DestinationRanges) == 0
	if slices.Equal(r.DestinationRanges, d.last) {
		return
	}
	if d.last = r.DestinationRanges; d.ranges == nil {
		d.ranges = map[string]bool{}
	}
	for _, destination := range r.DestinationRanges {
		d.ranges[destination] = true
	}
}

// list returns the destination ranges for one rule that allows what all of them do.
func (d destinationSet) list() []string {
	if d.every {
		return nil
	}
	return withinLimit(slices.Sorted(maps.Keys(d.ranges)))
}

// ownedPort is a port of a Service, which is identified by its serviceHash.
type ownedPort struct {
	service string
	port    Port
}

func (g *sharedGroup) addExisting(r Rule, mark sharedMark, keep func(service string) bool) {
	owned, hasKept := map[ownedPort]bool{}, false
	for service, text := range mark.Ports {
		ports, _ := parsePorts(text) // Valid, as parseSharedMark has checked.
		for _, port := range ports {
			owned[ownedPort{service, port}] = true
			if keep(service) {
				hasKept = true
				g.wanted[ownedPort{service, port}] = true
			}
		}
	}
	g.existing, g.existingPorts = append(g.existing, r), append(g.existingPorts, owned)
	g.hasKept = append(g.hasKept, hasKept)
}

func (g *sharedGroup) addWanted(r Rule) {
	owner, err := ParseMark(r.Description)
	if err != nil {
		return // Not made by Desired.
	}
	g.template = &r
	g.destinations.add(r)
	for _, a := range r.Allowed {
		for _, port := range portsOf(a) {
			g.wanted[ownedPort{serviceHash(owner), port}] = true
		}
	}
}

// rules assigns the wanted ports to rules: each to the existing rule that holds it, or else to the
// first rule that has room, or else to a new one.
func (g *sharedGroup) rules() []Rule {
	var assignments []*ruleAssignment
	add := func() *ruleAssignment {
		assignments = append(assignments, &ruleAssignment{ports: map[string][]Port{}, length: len(formatJSON(g.mark))})
		return assignments[len(assignments)-1]
	}
	for range g.existing {
		add()
	}
	var unassigned []ownedPort
	for _, port := range slices.SortedFunc(maps.Keys(g.wanted), compareOwnedPorts) {
		i := slices.IndexFunc(g.existingPorts, func(ports map[ownedPort]bool) bool { return ports[port] })
		if i < 0 || !assignments[i].add(port) {
			unassigned = append(unassigned, port)
		}
	}
	for _, port := range unassigned {
		if !slices.ContainsFunc(assignments, func(a *ruleAssignment) bool { return a.add(port) }) {
			add().add(port)
		}
	}
	return g.build(assignments)
}

func compareOwnedPorts(a, b ownedPort) int {
	return cmp.Or(comparePorts(a.port, b.port), strings.Compare(a.service, b.service))
}

// ruleAssignment is what one rule is to hold.
type ruleAssignment struct {
	allowed []Allow
	ports   map[string][]Port // By serviceHash.
	// length is an upper bound of the length of the mark.
	length int
}

// add adds a port, and reports whether there was room for it.
func (a *ruleAssignment) add(owned ownedPort) bool {
	added := allowsOf(owned.port)
	length := a.length + len(added[0].String()) + len(",")
	if a.ports[owned.service] == nil {
		length += len(owned.service) + len(`"":"",`)
	}
	allowed := Merge(slices.Concat(a.allowed, added))
	ranges := 0
	for _, other := range allowed {
		if other.Protocol == added[0].Protocol {
			ranges++
		}
	}
	if length > maxDescription || ranges > MaxPortRanges {
		return false
	}
	a.allowed, a.length = allowed, length
	a.ports[owned.service] = append(a.ports[owned.service], owned.port)
	return true
}

// build returns the rules for the assignments, the first of which are those of
// the existing rules. Rules that are to hold nothing are left out.
func (g *sharedGroup) build(assignments []*ruleAssignment) []Rule {
	names := map[string]bool{}
	for _, r := range g.existing {
		names[r.Name] = true
	}
	var rules []Rule
	for i, a := range assignments {
		if len(a.allowed) == 0 {
			continue
		}
		var r Rule
		if g.template != nil {
			r = *g.template
			r.DestinationRanges = g.destinationsFor(i)
		} else { // All ports are kept ones, of which only the existing rules are known.
			r = g.existing[min(i, len(g.existing)-1)]
		}
		if i < len(g.existing) {
			r.Name = g.existing[i].Name
		} else {
			n := 1
			for names[sharedName(g.mark.ClusterID, g.mark.Key, n)] {
				n++
			}
			r.Name = sharedName(g.mark.ClusterID, g.mark.Key, n)
			names[r.Name] = true
		}
		mark := g.mark
		mark.Ports = map[string]string{}
		for service, ports := range a.ports {
			mark.Ports[service] = formatPorts(ports)
		}
		r.Description, r.Allowed = formatJSON(mark), a.allowed
		rules = append(rules, r)
	}
	return rules
}

// destinationsFor returns the destination ranges of a rule, the first of which are the existing
// ones. A rule of a version without destination ranges keeps every destination until the needs of
// all its Services are known: these may have other nodes.
func (g *sharedGroup) destinationsFor(rule int) []string {
	if rule < len(g.existing) && g.hasKept[rule] && len(g.existing[rule].DestinationRanges) == 0 {
		return nil
	}
	return g.destinations.list()
}
