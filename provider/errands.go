package provider

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

const (
	// patience is how long a Service waits for the firewall. Not longer, as
	// addresses that turned bad have to leave meanwhile, and other Services wait
	// for the same workers.
	patience = 20 * time.Millisecond
	// atATime is how many Services' firewalls are changed at a time.
	atATime = 10
)

// errands are calls of the firewall, one at a time for each Service. A cloud
// takes seconds to change a rule, and minutes to fail; who sent for it
// need not wait that long.
type errands struct {
	// resume has a Service come back for a result that it did not wait for.
	resume func(types.NamespacedName)
	slots  chan struct{}

	mu      sync.Mutex
	running map[types.UID]*errand
}

type errand struct {
	done chan struct{}
	// result is there when done is closed.
	result result
	// missed says that somebody gave up waiting.
	missed bool
}

// result is what came of an errand.
type result struct {
	// wanted is what it was about.
	wanted   string
	changes  []string
	repaired bool
	err      error
}

// errUnderWay says that an errand is not done yet.
var errUnderWay = errors.New("under way")

func newErrands(resume func(types.NamespacedName)) *errands {
	return &errands{resume: resume, slots: make(chan struct{}, atATime), running: map[types.UID]*errand{}}
}

// start begins an errand for a Service that has none under way.
func (e *errands) start(ctx context.Context, owner firewall.Owner, call func() result) {
	started := &errand{done: make(chan struct{})}
	e.mu.Lock()
	e.running[owner.UID] = started
	e.mu.Unlock()
	go func() {
		r := e.inTurn(ctx, call)
		e.mu.Lock()
		started.result = r
		close(started.done)
		missed := started.missed
		e.mu.Unlock()
		if missed {
			e.resume(owner.Service)
		}
	}()
}

func (e *errands) inTurn(ctx context.Context, call func() result) result {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
		return call()
	case <-ctx.Done():
		return result{err: ctx.Err()}
	}
}

// finish waits until a Service's errand is done or ctx ends, and returns the
// result, once. Without an errand there is an empty one.
func (e *errands) finish(ctx context.Context, owner firewall.Owner) (result, error) {
	e.mu.Lock()
	running := e.running[owner.UID]
	e.mu.Unlock()
	if running == nil {
		return result{}, nil
	}
	select {
	case <-running.done:
	case <-ctx.Done():
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-running.done:
		delete(e.running, owner.UID)
		return running.result, nil
	default:
		running.missed = true
		return result{}, errUnderWay
	}
}
