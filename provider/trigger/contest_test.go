package trigger

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// rival lives with a contest: each round it waits, and writes after we did.
type rival struct {
	*contest
	clock  time.Time
	writes int
}

var contestedService = types.NamespacedName{Namespace: "default", Name: "web"}

func newRival() *rival {
	r := &rival{contest: newContest(), clock: time.Unix(0, 0)}
	r.now = func() time.Time { return r.clock }
	return r
}

// status returns one that was never written before.
func (r *rival) status() v1.LoadBalancerStatus {
	r.writes++
	return v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{Hostname: fmt.Sprint(r.writes)}}}
}

// round has the rival write after a while, and us as soon as we are allowed to.
func (r *rival) round(after time.Duration) (truce time.Duration) {
	r.clock = r.clock.Add(after)
	truce = r.seen(contestedService, r.status())
	r.clock = r.clock.Add(truce)
	ours := r.status()
	r.wrote(contestedService, ours)
	if wait := r.seen(contestedService, ours); wait != 0 {
		panic("our own write is taken for another's")
	}
	return truce
}

func TestAControllerThatDoesNotGiveInIsAnsweredLessAndLessOften(t *testing.T) {
	r := newRival()
	want := burst
	for range 20 {
		if got := r.round(10 * time.Millisecond); got != want {
			t.Fatalf("after %d writes: waited %s, want %s", r.writes, got, want)
		}
		want = min(2*want, maxTruce)
	}
	if got := r.round(contested); got != burst {
		t.Errorf("once it has given in, an edit waits %s", got)
	}
	r.round(10 * time.Millisecond)
	r.forget(contestedService)
	if len(r.own) > 0 {
		t.Errorf("of a Service that is gone %v is known", r.own)
	}
}

func TestAStatusThatIsEditedNowAndThenIsPutRightAtOnce(t *testing.T) {
	r := newRival()
	for range 20 {
		if got := r.round(2 * contested); got != burst {
			t.Fatalf("waited %s", got)
		}
	}
}

func TestOurOwnWriteThatIsSeenLateIsNobodyElses(t *testing.T) {
	r := newRival()
	for range 20 {
		first, second := r.status(), r.status()
		r.wrote(contestedService, first)
		r.wrote(contestedService, second)
		if got := r.seen(contestedService, first); got > burst {
			t.Fatalf("after %d writes: waited %s", r.writes, got)
		}
		if got := r.seen(contestedService, second); got != 0 {
			t.Fatalf("our last write is taken for another's: waited %s", got)
		}
	}
}
