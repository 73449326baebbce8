// Package failover detects nodes that have died about half a minute before Kubernetes sets them
// NotReady, so that their addresses leave DNS sooner. A detector decides from observations and the
// time alone; a Monitor makes the observations. To other packages a node that is down appears
// NotReady.
//
// A wrong decision withdraws a working address. Therefore a node is down only if it answered
// before, does not answer any more, and has not renewed its Lease since. No node goes down while
// more nodes fail to answer than answer: then hostport-ccm itself is cut off.
package failover

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// leaseUnchanged is how long the Lease of a node that does not answer has to stay the same. With
	// rounds of a second an address leaves within 8 s of its node's death. A longer time would be
	// safer: a kubelet renews its Lease every 10 s (nodeLeaseDurationSeconds/4 of its config).
	leaseUnchanged = 5 * time.Second
	// minMissedProbes is how many probes in a row have to fail. It matters when this process was
	// suspended: then leaseUnchanged may pass between two rounds.
	minMissedProbes = 3
	// recoveryRounds is how many rounds a node stays down after it renewed its Lease. A kubelet that
	// has just started renews it before it reports that the pods it ran have ended.
	recoveryRounds = 3
	// maxRecoveryRounds is how many rounds a node stays down whose kube-proxy does not listen again. Then the
	// Ready condition decides: kube-proxy may have been configured not to listen.
	maxRecoveryRounds = 60
)

// answer is what came back of a probe.
type answer int

const (
	noAnswer answer = iota
	// refused: the machine is alive, and nothing listens on the port.
	refused
	// accepted: kube-proxy, or what replaces it, is running.
	accepted
)

// Transition is a node that went down, or came up again.
type Transition struct {
	Node string
	Down bool
	// Unanswered is the time since the node last answered.
	Unanswered time.Duration
}

// Message returns a sentence for an event.
func (t Transition) Message() string {
	if t.Down {
		return fmt.Sprintf("node %s has not answered for %s and has not renewed its Lease in that time: "+
			"its addresses are withdrawn from Services until it renews its Lease",
			t.Node, t.Unanswered.Round(time.Second))
	}
	return fmt.Sprintf("node %s has renewed its Lease: its addresses may be published again", t.Node)
}

// detector decides which nodes are down. In each round its caller passes the probes of all Ready
// nodes to observeProbes, then the Leases that observeProbes asked for to observeLeases.
type detector struct{ nodes map[string]*observed }

// observed is what is known of a node.
type observed struct {
	lastAnswer   time.Time // Zero: it never answered.
	missedProbes int       // Since lastAnswer.
	// accepts is whether lastAnswer before the node went down accepted the probe, and acceptedRounds how many
	// rounds in a row probes were accepted.
	accepts        bool
	acceptedRounds int
	// lease is the node's Lease as first read since lastAnswer, at the time leaseRead. Empty: not
	// read yet.
	lease     string
	leaseRead time.Time
	// renewedRounds counts the rounds since the Lease differed from lease, that one included.
	renewedRounds int
	down          bool
}

// state is the state of a node in metrics.
type state string

const (
	// unreached nodes never answered: something on the way drops the probes. For them the Ready
	// condition alone counts.
	unreached    state = "unreached"
	answering    state = "answering"
	unresponsive state = "unresponsive"
	down         state = "down"
)

func newDetector() *detector { return &detector{nodes: map[string]*observed{}} }

// observeProbes takes the results of the round that began at now and returns the nodes, sorted,
// whose Leases are needed. A node without a result is forgotten: it is gone or NotReady.
func (d *detector) observeProbes(now time.Time, answers map[string]answer) (needLease []string) {
	maps.DeleteFunc(d.nodes, func(node string, _ *observed) bool { _, probed := answers[node]; return !probed })
	for node, a := range answers {
		o := d.nodes[node]
		if o == nil {
			o = &observed{}
			d.nodes[node] = o
		}
		o.acceptedRounds++
		if a != accepted {
			o.acceptedRounds = 0
		}
		if a == noAnswer {
			o.missedProbes++
			if o.down && o.missedProbes == minMissedProbes {
				o.lease, o.renewedRounds = "", 0 // It may have died again: what it renewed before is no evidence.
			}
			continue
		}
		o.lastAnswer, o.missedProbes = now, 0
		if !o.down {
			o.accepts, o.lease, o.renewedRounds = a == accepted, "", 0
		}
	}
	isolated := d.isolated()
	for node, o := range d.nodes {
		if o.down || o.state() == unresponsive && !isolated {
			needLease = append(needLease, node)
		}
	}
	slices.Sort(needLease)
	return needLease
}

// observeLeases takes the Leases that could be read, each as a string that differs after a renewal,
// and returns the transitions of this round, sorted by node. A node does not go down in a round in
// which its Lease could not be read.
func (d *detector) observeLeases(now time.Time, leases map[string]string) []Transition {
	isolated := d.isolated()
	var transitions []Transition
	for _, node := range slices.Sorted(maps.Keys(d.nodes)) {
		o := d.nodes[node]
		lease, read := leases[node]
		switch {
		case o.renewedRounds > 0:
			o.renewedRounds++
		case lease == "":
		case o.lease == "":
			o.lease, o.leaseRead = lease, now
		case o.lease != lease:
			o.renewedRounds = 1
		}
		switch {
		case o.down && o.hasRecovered():
			o.down = false
			// A node that still does not answer keeps its renewal, which isDead respects.
			if o.missedProbes == 0 {
				o.lease, o.renewedRounds = "", 0
			}
		case !isolated && read && o.isDead(now):
			o.down = true
		default:
			continue
		}
		transitions = append(transitions, Transition{Node: node, Down: o.down, Unanswered: now.Sub(o.lastAnswer)})
	}
	return transitions
}

// isolated reports whether more of the nodes that ever answered fail to answer than answer.
func (d *detector) isolated() bool {
	balance := 0
	for _, o := range d.nodes {
		switch o.state() {
		case answering:
			balance++
		case unresponsive, down:
			balance--
		}
	}
	return balance < 0
}

func (o *observed) state() state {
	switch {
	case o.down:
		return down
	case o.lastAnswer.IsZero():
		return unreached
	case o.missedProbes > 0:
		return unresponsive
	}
	return answering
}

// hasRecovered reports whether a node that was down may serve again: its kubelet renews its Lease, and
// kube-proxy has listened for recoveryRounds if it did before. A kubelet that has just started renews the Lease
// some seconds before kube-proxy listens, and kube-proxy listens before it has written its rules. A node that
// renews its Lease and does not answer cannot be reached from here, but is alive.
func (o *observed) hasRecovered() bool {
	listens := !o.accepts || o.missedProbes >= minMissedProbes || o.acceptedRounds > recoveryRounds
	return o.renewedRounds > recoveryRounds && (listens || o.renewedRounds > maxRecoveryRounds)
}

// isDead reports whether all evidence is against a node. One that renewed its Lease since its last
// answer is alive but cannot be reached from here; until it answers again, its Ready condition
// alone counts.
func (o *observed) isDead(now time.Time) bool {
	return o.state() == unresponsive && o.missedProbes >= minMissedProbes && o.renewedRounds == 0 &&
		o.lease != "" && now.Sub(o.leaseRead) >= leaseUnchanged
}
