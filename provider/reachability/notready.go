package reachability

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

const (
	// startTime is how long a running proxy may be not Ready before it is asked why.
	startTime = 30 * time.Second
	// askPeriod is after how long it is asked again.
	askPeriod = 10 * time.Second
)

// notReadyState is what a proxy that is not Ready answered.
type notReadyState struct {
	asked   time.Time
	reasons string
}

// askNotReady asks proxies that run and have not been Ready for some time, and remembers what they
// answer. It asks at most one in a round, as they are not many, or all say the same.
func (m *Monitor) askNotReady(ctx context.Context, targets []target) {
	known, now := map[types.UID]*notReadyState{}, m.now()
	var due []target
	for _, t := range targets {
		if !isLongNotReady(t, now) {
			continue
		}
		s := m.notReady[t.pod.UID]
		if s == nil {
			s = &notReadyState{}
		}
		known[t.pod.UID] = s
		if now.Sub(s.asked) >= askPeriod {
			due = append(due, t)
		}
	}
	m.notReady = known
	if len(due) == 0 {
		return
	}
	t := slices.MinFunc(due, func(a, b target) int { return known[a.pod.UID].asked.Compare(known[b.pod.UID].asked) })
	s := known[t.pod.UID]
	s.asked = m.now()
	if reasons, err := m.prober.NotReady(ctx, t.pod); err == nil && reasons != "" {
		s.reasons = reasons
	}
}

// isLongNotReady reports whether a proxy runs on a Ready node and has not been Ready for startTime,
// although nothing is known that prevents it.
func isLongNotReady(t target, now time.Time) bool {
	if publish.Ready(t.pod) {
		return false
	}
	if _, known := publish.ProblemOf(t.pod); known || t.pod.Status.Phase != v1.PodRunning || !isReadyNode(t.node) {
		return false
	}
	return slices.ContainsFunc(t.pod.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status != v1.ConditionTrue && now.Sub(c.LastTransitionTime.Time) >= startTime
	})
}

func isReadyNode(node *v1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

// notReadyMessage describes the proxies of a Service that are not Ready and have been asked why, by one
// that says why if any does; empty if there are none.
func (m *Monitor) notReadyMessage(targets []target) string {
	var example target
	reasons, n := "", 0
	for _, t := range targets {
		s := m.notReady[t.pod.UID]
		if s == nil || s.asked.IsZero() {
			continue
		}
		if n++; n == 1 || reasons == "" && s.reasons != "" {
			example, reasons = t, s.reasons
		}
	}
	if n == 0 {
		return ""
	}
	pod := example.pod
	message := fmt.Sprintf("proxy pod %s/%s on node %s has not been Ready for more than %.0f s", pod.Namespace, pod.Name, example.node.Name, startTime.Seconds())
	if reasons != "" {
		message += ": it answers " + reasons
	} else {
		message += fmt.Sprintf(" and does not answer why: see kubectl logs -n %s %s", pod.Namespace, pod.Name)
	}
	if n > 1 {
		message += fmt.Sprintf(" (%d more proxies of this Service are not Ready)", n-1)
	}
	return message
}
