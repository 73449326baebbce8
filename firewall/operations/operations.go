package operations

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// MaxParallel is how many operations run at once by default.
const MaxParallel = 10

// operations run in the background, one at a time for each Service.
type operations struct {
	// resume is called when an operation ends that a caller stopped waiting for.
	resume func(types.NamespacedName)
	// running has an element for each operation that runs.
	running chan struct{}

	mu        sync.Mutex
	byService map[types.UID]*operation
}

type operation struct {
	// done is closed when outcome is set.
	done    chan struct{}
	outcome outcome
	// detached means that a caller stopped waiting.
	detached bool
}

// outcome is the result of an operation.
type outcome struct {
	// request is what the operation was started for; nil if it was not begun.
	request *request
	Result
	err error
}

func newOperations(parallel int, resume func(types.NamespacedName)) *operations {
	return &operations{resume: resume, running: make(chan struct{}, parallel), byService: map[types.UID]*operation{}}
}

// start begins an operation for a Service that has none. If ctx is done before
// its turn comes, the outcome is the error of ctx, without a request.
func (o *operations) start(ctx context.Context, owner firewall.Owner, run func() outcome) {
	op := &operation{done: make(chan struct{})}
	o.mu.Lock()
	o.byService[owner.UID] = op
	o.mu.Unlock()
	go func() {
		var result outcome
		select {
		case o.running <- struct{}{}:
			result = run()
			<-o.running
		case <-ctx.Done():
			result = outcome{err: ctx.Err()}
		}
		o.mu.Lock()
		op.outcome = result
		close(op.done)
		detached := op.detached
		o.mu.Unlock()
		if detached {
			o.resume(owner.Service)
		}
	}()
}

// wait waits until the Service's operation is done, and returns its outcome
// once. It returns ErrInProgress if ctx is done first, and an empty outcome if
// there is no operation.
func (o *operations) wait(ctx context.Context, owner firewall.Owner) (outcome, error) {
	o.mu.Lock()
	op := o.byService[owner.UID]
	o.mu.Unlock()
	if op == nil {
		return outcome{}, nil
	}
	select {
	case <-op.done:
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-op.done:
		delete(o.byService, owner.UID)
		return op.outcome, nil
	default:
		op.detached = true
		return outcome{}, ErrInProgress
	}
}
