// Package failover finds nodes that have died, some half a minute before
// Kubernetes says NotReady, so that their addresses can leave DNS. A judge
// decides, purely, from observations and the time; a Monitor makes the
// observations. What the verdict means for a Service is not decided here: a
// dead node is shown as not Ready, and treated as any such.
//
// A wrong verdict takes a good address away, so evidence has to agree. A node
// is down if it was reached before, does not answer any more, and has not
// renewed its Lease in the meantime either. And nobody is down while most
// nodes are silent: then it is we who are cut off.
package failover

import (
	"maps"
	"slices"
	"time"
)

const (
	// after is how long the Lease of a silent node has to stay as it is. With
	// rounds of a second an address then leaves within 8 s of its node's
	// death; longer would be safer, as a kubelet that lives renews its Lease
	// every 10 s (nodeLeaseDurationSeconds/4 of its config).
	after = 5 * time.Second
	// fewest is how many answers in a row have to be missing. It counts when we
	// stood still ourselves, and little of after was spent asking.
	fewest = 3
	// settling is how many rounds a node stays down after it renewed its Lease.
	// A kubelet that just started does so before it reports that the pods it
	// ran are no more.
	settling = 3
)

// judge knows what was observed. Each round it is told of all nodes that are
// Ready: first who answered, by hear, then the Leases it asked for, by decide.
type judge struct{ nodes map[string]*record }

// record is what is known of a node.
type record struct {
	// answered is when it last did; zero: never.
	answered time.Time
	// missing answers since then.
	missing int
	// lease is the Lease's mark as read first in this silence, at the time
	// looked; empty: not read yet.
	lease  string
	looked time.Time
	// renewed counts rounds from the one in which the Lease had another mark.
	renewed int
	down    bool
}

// verdict says that a node went down, or came back.
type verdict struct {
	Node string
	Down bool
	// Silent is for how long it had not answered.
	Silent time.Duration
}

// state is a node's, for metrics.
type state string

const (
	// unreached nodes never answered; something between us does not let us
	// ask. Kubernetes' own word has to do for them.
	unreached state = "unreached"
	answering state = "answering"
	silent    state = "silent"
	down      state = "down"
)

func (r *record) state() state {
	switch {
	case r.down:
		return down
	case r.answered.IsZero():
		return unreached
	case r.missing > 0:
		return silent
	}
	return answering
}

func newJudge() *judge { return &judge{nodes: map[string]*record{}} }

// hear takes the answers of a round that began at now and returns the nodes,
// sorted, whose Leases have to be looked at. A node that is missing among
// the answers is forgotten: it is gone, or Kubernetes has noticed.
func (j *judge) hear(now time.Time, answers map[string]bool) []string {
	maps.DeleteFunc(j.nodes, func(node string, _ *record) bool { _, there := answers[node]; return !there })
	for node, answered := range answers {
		r := j.nodes[node]
		if r == nil {
			r = &record{}
			j.nodes[node] = r
		}
		r.hear(now, answered)
	}
	cutOff := j.cutOff()
	var look []string
	for node, r := range j.nodes {
		if r.down || r.state() == silent && !cutOff {
			look = append(look, node)
		}
	}
	slices.Sort(look)
	return look
}

func (r *record) hear(now time.Time, answered bool) {
	if !answered {
		r.missing++
		return
	}
	r.answered, r.missing = now, 0
	if !r.down {
		r.lease, r.renewed = "", 0
	}
}

// cutOff says that of the nodes that were ever reached more are silent than
// answer.
func (j *judge) cutOff() bool {
	balance := 0
	for _, r := range j.nodes {
		switch r.state() {
		case answering:
			balance++
		case silent, down:
			balance--
		}
	}
	return balance < 0
}

// decide takes the marks of the Leases that were read, anything that changes
// when a Lease is renewed, and returns the verdicts, sorted by node. A Lease
// that could not be read acquits its node.
func (j *judge) decide(now time.Time, leases map[string]string) []verdict {
	cutOff := j.cutOff()
	var verdicts []verdict
	for _, node := range slices.Sorted(maps.Keys(j.nodes)) {
		r := j.nodes[node]
		mark, read := leases[node]
		r.look(now, mark)
		switch {
		case r.down && r.renewed > settling:
			verdicts = append(verdicts, verdict{Node: node, Silent: now.Sub(r.answered)})
			r.back()
		case !cutOff && read && r.isDead(now):
			verdicts = append(verdicts, verdict{Node: node, Down: true, Silent: now.Sub(r.answered)})
			r.down = true
		}
	}
	return verdicts
}

// back ends a verdict. What is known of the Lease is forgotten once the node
// answers: one that only we cannot reach is not to go down again.
func (r *record) back() {
	r.down = false
	if r.missing == 0 {
		r.lease, r.renewed = "", 0
	}
}

func (r *record) look(now time.Time, mark string) {
	switch {
	case r.renewed > 0:
		r.renewed++
	case mark == "":
	case r.lease == "":
		r.lease, r.looked = mark, now
	case r.lease != mark:
		r.renewed = 1
	}
}

// isDead says that all evidence is against a node. One that renewed its Lease
// in this silence lives, and just cannot be reached from here: about such a one
// we know no better than Kubernetes until it answers again.
func (r *record) isDead(now time.Time) bool {
	return r.state() == silent && r.missing >= fewest && r.lease != "" && now.Sub(r.looked) >= after && r.renewed == 0
}
