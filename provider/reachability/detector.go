// Package reachability verifies from outside of the proxies' pods that packets to a node's ports
// reach the proxy there: the rules that lead to it are the node's own, made by its network plugin,
// and can get lost while the proxy is Ready. A detector decides from observations and the time alone;
// a Monitor makes the observations.
//
// A proxy counts the connections to each of its ports. If the number has risen, packets reach it.
// Otherwise the Monitor connects to the port of the node, and expects the number to rise.
//
// A wrong decision withdraws a working address and replaces a working proxy. Therefore:
//   - several attempts in a row have to fail, each confirmed by the proxy itself: its counter, read
//     from the pod, has not risen after a later sync. A Monitor that is cut off from the pods
//     concludes nothing;
//   - an attempt without any answer counts only if the Monitor reached the port before, and still
//     reaches that of another node: a firewall between may drop its packets;
//   - while another node of the Service is under suspicion too, nothing is concluded. If all nodes
//     fail, package publish keeps their addresses.
package reachability

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// period is the time between the checks of a proxy, and between the connections to one of its
	// ports that has no others. With retry, an address leaves within 25 s.
	period = 8 * time.Second
	// retry is the time until the next check after an attempt that seems to have failed. It is longer
	// than the period of the proxy's syncs.
	retry = 3 * time.Second
	// recheck is the time until the next check if the proxy has not synced since. It is not shorter than
	// the time for which a proxy answers with the counters that it read last.
	recheck = time.Second
	// failures is how many attempts in a row have to fail.
	failures = 3
	// patience limits how long the decision waits for that about other nodes.
	patience = 10 * time.Second
	// maxCountDelay is after how long an attempt that a proxy has not counted is ignored, if it does not
	// sync either.
	maxCountDelay = 15 * time.Second
	// memory is how long a place without a proxy is remembered: longer than it takes to replace it,
	// after it has drained for the time that is usually the longest.
	memory = 6 * time.Minute
)

// port is a port of a proxy in one IP family.
type port struct {
	group
	number int32
}

// group is what a network plugin has one rule for. Of each, one port at a time is checked.
type group struct {
	family   v1.IPFamily
	protocol v1.Protocol
}

func comparePorts(a, b port) int {
	return cmp.Or(strings.Compare(string(a.family), string(b.family)), strings.Compare(string(a.protocol), string(b.protocol)), cmp.Compare(a.number, b.number))
}

// place is where a proxy is expected: its pod may be replaced.
type place struct {
	service types.UID
	node    string
	// set is the value of plan.LabelProxySet.
	set string
}

// outcome is how an attempt to connect to a port ended.
type outcome string

const (
	answered outcome = "answered"
	refused  outcome = "refused"
	// silent is no answer in time.
	silent outcome = "silent"
	// aborted is that no packet left this machine.
	aborted outcome = "aborted"
)

// result is what a check shows of a group, for metrics.
type result string

const (
	byTraffic    result = "traffic"
	verified     result = "verified"
	failed       result = "failed"
	inconclusive result = "inconclusive"
)

// reading is what a proxy has counted.
type reading struct {
	connections map[port]uint64
	// syncs are the syncs that found nothing to change, and so read all counters; otherSyncs are all
	// others, after which a counter may lack connections.
	syncs, otherSyncs uint64
}

// attempt is a connection to a port of a node.
type attempt struct {
	port    port
	outcome outcome
	// remote reports that the packets left this machine.
	remote bool
	made   time.Time
}

// seemsFailed reports whether the attempt probably did not reach the proxy. UDP has no answers.
func (a *attempt) seemsFailed() bool {
	return a != nil && (a.outcome == refused || a.outcome == silent && a.port.protocol == v1.ProtocolTCP)
}

// suspicion is what is held against a port: failed attempts in a row.
type suspicion struct {
	port   port
	failed int
	// since is when the first failed, and decided when enough had.
	since, decided time.Time
	// silent reports that one had no answer; last is the outcome of the last one.
	silent bool
	last   outcome
}

// groupState is what is known of one group of ports at a place.
type groupState struct {
	// attempt is the last one, until the proxy has counted it or not.
	attempt   *attempt
	suspicion *suspicion
	// unreachable is the decision about suspicion. It lasts until packets reach the port.
	unreachable bool
	// reached is when a connection from this machine last was answered by the proxy on another one.
	reached time.Time
	// last is the port of the last attempt.
	last port
}

// placeState is what is known of a place.
type placeState struct {
	pod     types.UID
	reading *reading
	groups  map[group]*groupState
	// due is when the next check is, and seen when the place last had a proxy.
	due, seen time.Time
}

// detector decides where packets do not reach a proxy.
type detector struct{ places map[place]*placeState }

func newDetector() *detector { return &detector{places: map[place]*placeState{}} }

// at returns what is known of a place that has a proxy. Of another pod than before, nothing is known,
// except that packets did not reach the one before.
func (d *detector) at(now time.Time, where place, pod types.UID) *placeState {
	s := d.places[where]
	if s == nil {
		s = &placeState{groups: map[group]*groupState{}}
		d.places[where] = s
	}
	if s.pod != pod {
		s.pod, s.reading, s.due = pod, nil, now
		for _, g := range s.groups {
			g.attempt = nil
			if !g.unreachable {
				g.suspicion = nil
			}
		}
	}
	s.seen = now
	return s
}

// forget forgets places that have had no proxy for some time.
func (d *detector) forget(now time.Time) {
	maps.DeleteFunc(d.places, func(_ place, s *placeState) bool { return now.Sub(s.seen) > memory })
}

// observe takes what the proxy at a place has counted. It returns the ports to connect to next, whose
// outcomes are to be passed to connected, and the results of what was observed.
func (d *detector) observe(now time.Time, where place, r reading) (next []port, results []result) {
	s := d.places[where]
	if s.awaitsCount(now, r) {
		s.due = now.Add(recheck)
		return nil, nil
	}
	s.due = now.Add(period)
	byGroup := map[group][]port{}
	for _, p := range slices.SortedFunc(maps.Keys(r.connections), comparePorts) {
		byGroup[p.group] = append(byGroup[p.group], p)
	}
	maps.DeleteFunc(s.groups, func(of group, _ *groupState) bool { return byGroup[of] == nil })
	for of, ports := range byGroup {
		g := s.groups[of]
		if g == nil {
			g = &groupState{}
			s.groups[of] = g
		}
		uncounted := slices.DeleteFunc(slices.Clone(ports), func(p port) bool { return s.rise(p, r) > 0 })
		idle := slices.DeleteFunc(slices.Clone(ports), func(p port) bool { return s.rise(p, r) > g.ownConnections(p) })
		if result := g.settle(now, ports, uncounted, s.reading != nil && s.reading.isFollowedBy(r)); result != "" {
			results = append(results, result)
		}
		if len(idle) == 0 && d.needsControl(where, of) {
			idle = ports
		}
		if p, found := g.choose(idle); found {
			next = append(next, p)
		}
	}
	s.reading = &r
	slices.SortFunc(next, comparePorts)
	return next, results
}

// awaitsCount reports whether the proxy has still to read its counters after an attempt that they do
// not show yet.
func (s *placeState) awaitsCount(now time.Time, r reading) bool {
	for _, g := range s.groups {
		if a := g.attempt; a != nil && s.reading != nil && s.rise(a.port, r) == 0 && now.Sub(a.made) < maxCountDelay &&
			r.otherSyncs == s.reading.otherSyncs && r.syncs >= s.reading.syncs && !s.reading.isFollowedBy(r) {
			return true
		}
	}
	return false
}

// isFollowedBy reports whether all that arrived until shortly after r is in next: the second sync
// since r began after it.
func (r reading) isFollowedBy(next reading) bool {
	return next.syncs >= r.syncs+2 && next.otherSyncs == r.otherSyncs
}

// rise returns how many connections to a port have reached the proxy since the last reading.
func (s *placeState) rise(p port, r reading) uint64 {
	if s.reading == nil {
		return 0
	}
	before, known := s.reading.connections[p]
	if now := r.connections[p]; known && now > before {
		return now - before
	}
	return 0
}

// ownConnections returns how many connections to a port this process has made since the last reading.
func (g *groupState) ownConnections(p port) uint64 {
	if g.attempt != nil && g.attempt.port == p {
		return 1
	}
	return 0
}

// settle takes the ports of the group and those of them with no connection since the last reading.
// complete reports that the proxy has read its counters since the last attempt.
func (g *groupState) settle(now time.Time, ports, uncounted []port, complete bool) result {
	if s := g.suspicion; s != nil && !(slices.Contains(ports, s.port) && slices.Contains(uncounted, s.port)) {
		g.suspicion, g.unreachable = nil, false // Packets reach the port, or the Service has it no more.
	}
	a := g.attempt
	g.attempt = nil
	switch {
	case a == nil && len(uncounted) < len(ports):
		return byTraffic
	case a == nil:
		return ""
	case !slices.Contains(uncounted, a.port):
		if a.outcome == answered && a.remote {
			g.reached = now
		}
		return verified
	case !complete, a.outcome == aborted, a.outcome == silent && a.port.protocol != v1.ProtocolTCP, !slices.Contains(ports, a.port):
		return inconclusive
	}
	g.suspect(now, a)
	return failed
}

func (g *groupState) suspect(now time.Time, a *attempt) {
	if g.suspicion == nil || g.suspicion.port != a.port {
		g.suspicion = &suspicion{port: a.port, since: now}
	}
	s := g.suspicion
	s.failed++
	s.last, s.silent = a.outcome, s.silent || a.outcome == silent
	if s.failed == failures {
		s.decided = now
	}
}

// choose returns the port of the next attempt: the suspected one, or the next in turn.
func (g *groupState) choose(idle []port) (next port, found bool) {
	if g.suspicion != nil {
		return g.suspicion.port, true
	}
	if len(idle) == 0 || idle[0].protocol == v1.ProtocolSCTP {
		return port{}, false
	}
	i := slices.IndexFunc(idle, func(p port) bool { return comparePorts(p, g.last) > 0 })
	return idle[max(i, 0)], true
}

// connected takes the outcome of an attempt that observe asked for. After the first one of a Service
// that seems to have failed, its other places are checked soon, so that the decisions fall together.
func (d *detector) connected(now time.Time, where place, a attempt) {
	s := d.places[where]
	g := s.groups[a.port.group]
	if g == nil {
		return
	}
	g.attempt, g.last, a.made = &a, a.port, now
	if g.isUrgent() || g.unreachable && !a.seemsFailed() {
		s.due = now.Add(retry) // The decision may change soon.
	}
	if g.suspicion != nil || !a.seemsFailed() {
		return
	}
	for other, state := range d.places {
		if other.service == where.service && other.node != where.node && state.due.After(now) && !state.isSuspected() {
			state.due = now
		}
	}
}

// isSuspected reports whether a decision about the place may come soon.
func (s *placeState) isSuspected() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(s.groups)), (*groupState).isUrgent)
}

func (g *groupState) isUrgent() bool {
	if g.suspicion == nil || g.unreachable {
		return !g.unreachable && g.attempt.seemsFailed()
	}
	// Attempts without an answer may go on for ever without a decision.
	return g.suspicion.failed < 2*failures
}
