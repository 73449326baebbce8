package view

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// otherController is another writer of a Service's status. In each round it writes after us.
type otherController struct {
	*statusConflicts
	clock time.Time
	count int
}

var conflictingService = types.NamespacedName{Namespace: "default", Name: "web"}

func newOtherController() *otherController {
	r := &otherController{statusConflicts: newStatusConflicts(), clock: time.Unix(0, 0)}
	r.now = func() time.Time { return r.clock }
	return r
}

// status returns a status that was never written before.
func (r *otherController) status() v1.LoadBalancerStatus {
	r.count++
	return v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{Hostname: fmt.Sprint(r.count)}}}
}

// round writes a status as the other controller, and ours after the backoff.
func (r *otherController) round(after time.Duration) (backoff time.Duration) {
	r.clock = r.clock.Add(after)
	backoff = r.observed(conflictingService, r.status())
	r.clock = r.clock.Add(backoff)
	ours := r.status()
	r.wrote(conflictingService, ours)
	if wait := r.observed(conflictingService, ours); wait != 0 {
		panic("our own write is taken for a foreign one")
	}
	return backoff
}

func TestARepeatedConflictIsCorrectedLessAndLessOften(t *testing.T) {
	r := newOtherController()
	want := batchDelay
	for range 20 {
		if got := r.round(10 * time.Millisecond); got != want {
			t.Fatalf("after %d writes: waited %s, want %s", r.count, got, want)
		}
		want = min(2*want, maxBackoff)
	}
	if got := r.round(replyTime); got != batchDelay {
		t.Errorf("after the end of the conflict, the correction waits %s", got)
	}
	r.round(10 * time.Millisecond)
	r.forget(conflictingService)
	if len(r.statusConflicts.writes) > 0 {
		t.Errorf("writes of a deleted Service are still recorded: %v", r.statusConflicts.writes)
	}
}

func TestAnOccasionalEditIsCorrectedAtOnce(t *testing.T) {
	r := newOtherController()
	for range 20 {
		if got := r.round(2 * replyTime); got != batchDelay {
			t.Fatalf("waited %s", got)
		}
	}
}

func TestOurOwnWriteThatIsObservedLateIsNoConflict(t *testing.T) {
	r := newOtherController()
	for range 20 {
		first, second := r.status(), r.status()
		r.wrote(conflictingService, first)
		r.wrote(conflictingService, second)
		if got := r.observed(conflictingService, first); got > batchDelay {
			t.Fatalf("after %d writes: waited %s", r.count, got)
		}
		if got := r.observed(conflictingService, second); got != 0 {
			t.Fatalf("our last write is taken for a foreign one: waited %s", got)
		}
	}
}

func TestAStatusThatIsClearedBeforeOurFirstWriteIsCorrected(t *testing.T) {
	c := newOtherController()
	for _, status := range []v1.LoadBalancerStatus{c.status(), c.status(), {}} {
		if got := c.observed(conflictingService, status); got != batchDelay {
			t.Errorf("status %v: waited %s", status.Ingress, got)
		}
	}
}
