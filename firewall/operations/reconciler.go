// Package operations calls a firewall in the background. A cloud takes seconds
// to change a rule and minutes to fail: callers wait only briefly, and are
// resumed when the operation has ended. The package remembers the last state
// that it applied, so that a Service that is reconciled for other reasons costs
// no request, until drift is detected.
package operations

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

const (
	// defaultTimeout is how long Ensure, and Delete beyond maxBlockingDeletes, wait for an
	// operation. It is short, as addresses that turn bad must leave the status meanwhile, and all
	// Services share the same workers.
	defaultTimeout = 20 * time.Millisecond
	// maxBlockingDeletes is how many calls of Delete block until the rules are
	// deleted. So a few Services are deleted in one pass, and many leave workers
	// to others.
	maxBlockingDeletes = 3
)

// ErrInProgress is returned by Delete while the rules are being deleted.
var ErrInProgress = errors.New("firewall operation in progress")

// InProgressError is returned by Ensure while the outcome is unknown.
type InProgressError struct {
	// Previous is the error of the Service's last completed operation.
	Previous error
}

// Error implements error.
func (*InProgressError) Error() string { return ErrInProgress.Error() }

// Result is what Ensure changed.
type Result struct {
	// Changes has one line for each change.
	Changes []string
	// Repaired reports that the changes undo those of somebody else.
	Repaired bool
}

// Reconciler makes the rules of Services equal to what they need. Its methods
// are safe for concurrent use.
type Reconciler struct {
	firewall   firewall.Firewall
	operations *operations
	timeout    time.Duration
	// blockingDeletes has an element for each Delete that blocks.
	blockingDeletes chan struct{}

	mu       sync.Mutex
	applied  map[types.UID]appliedState
	failures map[types.UID]error
	// deleted are the Services whose rules were deleted, and when, for deletedMemory.
	deleted map[types.UID]time.Time
}

// deletedMemory is for how long a Service that is deleted again costs no request: deletion is tried again
// while its proxies drain.
const deletedMemory = 10 * time.Minute

// appliedState is the last state that was applied for a Service.
type appliedState struct {
	// request is what was applied; its ports are those that the rules allow. nil: nothing.
	request *request
	// err is nil or a *firewall.ManualChangeError.
	err error
	// stale means that it has to be applied again.
	stale bool
}

// request is what an operation is to do.
type request struct {
	mode firewall.Mode
	// delete deletes all rules of spec.Owner.
	delete bool
	spec   firewall.Spec
}

// is reports whether r, which may be nil, is the same request.
func (r *request) is(other *request) bool {
	return r != nil && r.mode == other.mode && r.delete == other.delete && r.spec.Equal(other.spec)
}

// New returns a Reconciler that has applied nothing yet and runs at most so many operations at once. It
// calls resume when an operation ends after Ensure or Delete stopped waiting for it.
func New(fw firewall.Firewall, parallel int, resume func(types.NamespacedName)) *Reconciler {
	return &Reconciler{
		firewall:        fw,
		operations:      newOperations(parallel, resume),
		timeout:         defaultTimeout,
		blockingDeletes: make(chan struct{}, maxBlockingDeletes),
		applied:         map[types.UID]appliedState{},
		failures:        map[types.UID]error{},
		deleted:         map[types.UID]time.Time{},
	}
}

// Ensure makes the rules of spec.Owner equal to spec. In mode none the Service has no rules; in
// mode report the error is a *firewall.ManualChangeError while an administrator has to act. The
// error is an *InProgressError if the outcome is not known after defaultTimeout; the operation goes
// on until ctx is done, and Ensure is to be called again when the Service is resumed. Other errors
// are those of the firewall. The lists of spec must not be changed afterwards.
func (r *Reconciler) Ensure(ctx context.Context, spec firewall.Spec, mode firewall.Mode) (Result, error) {
	spec.Report = mode == firewall.Report
	wanted := &request{mode: mode, spec: spec}
	previous, err := r.wait(ctx, spec.Owner)
	var inProgress *InProgressError
	if errors.As(err, &inProgress) || previous.request.is(wanted) {
		return previous.Result, err
	}
	if last := r.lastApplied(spec.Owner.UID); last.request.is(wanted) && !last.stale {
		return Result{Changes: previous.Changes}, last.err
	}
	r.rememberDeleted(spec.Owner.UID, false)
	r.operations.start(ctx, spec.Owner, func() outcome { return r.apply(ctx, wanted) })
	current, err := r.wait(ctx, spec.Owner)
	return Result{Changes: append(previous.Changes, current.Changes...), Repaired: current.Repaired}, err
}

// MayAllow reports whether rules of owner may allow any of the ports: if one is in the applied state,
// or no state has been applied. An administrator may have to make the rules equal to it.
func (r *Reconciler) MayAllow(owner firewall.Owner, ports []firewall.Port) bool {
	applied := r.lastApplied(owner.UID).request
	if applied == nil || len(ports) == 0 {
		return len(ports) > 0
	}
	allowed := sets.New(applied.spec.Ports...)
	return slices.ContainsFunc(ports, allowed.Has)
}

// wait returns the outcome of the Service's operation, or an *InProgressError
// after the timeout.
func (r *Reconciler) wait(ctx context.Context, owner firewall.Owner) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	o, err := r.operations.wait(ctx, owner)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return o, &InProgressError{Previous: r.failures[owner.UID]}
	}
	if o.request != nil {
		r.failures[owner.UID] = o.err
	}
	return o, o.err
}

func (r *Reconciler) lastApplied(uid types.UID) appliedState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied[uid]
}

// apply runs as an operation. It records what it applied, unless it fails, so that the next Ensure
// tries again. A change that was refused because a permission is missing is recorded as stale: the
// next Ensure finds out whether it has been made since.
func (r *Reconciler) apply(ctx context.Context, wanted *request) outcome {
	spec := wanted.spec
	last, o := r.lastApplied(spec.Owner.UID), outcome{request: wanted}
	if wanted.mode == firewall.None {
		o.err = r.firewall.Delete(ctx, spec.Owner)
	} else {
		o.Changes, o.err = r.firewall.Ensure(ctx, spec)
	}
	// The same state had been applied, so somebody else changed it.
	o.Repaired = last.request.is(wanted) && last.err == nil
	r.mu.Lock()
	defer r.mu.Unlock()
	var manual *firewall.ManualChangeError
	switch {
	case errors.As(o.err, &manual):
		r.applied[spec.Owner.UID] = appliedState{request: wanted, err: manual, stale: manual.Cause != nil}
	case o.err != nil:
		delete(r.applied, spec.Owner.UID)
	default:
		r.applied[spec.Owner.UID] = appliedState{request: wanted}
	}
	return o
}

// Delete removes all rules of owner. In mode report it changes nothing, and returns a
// *firewall.ManualChangeError if an administrator has to. It blocks until that is done for
// maxBlockingDeletes Services at a time. For others it waits for defaultTimeout, then returns
// ErrInProgress and is to be called again when the Service is resumed.
func (r *Reconciler) Delete(ctx context.Context, owner firewall.Owner, mode firewall.Mode) error {
	waitCtx := ctx
	select {
	case r.blockingDeletes <- struct{}{}:
		defer func() { <-r.blockingDeletes }()
	default:
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	if mode != firewall.Report && r.isDeleted(owner.UID) {
		return nil
	}
	wanted := &request{mode: mode, delete: true, spec: firewall.Spec{Owner: owner}}
	for ctx.Err() == nil {
		o, err := r.operations.wait(waitCtx, owner)
		if err != nil {
			return err
		}
		if o.request.is(wanted) {
			r.rememberDeleted(owner.UID, o.err == nil && mode != firewall.Report)
			return o.err
		}
		r.operations.start(ctx, owner, func() outcome { return outcome{request: wanted, err: r.deleteRules(ctx, owner, mode)} })
	}
	return ErrInProgress
}

func (r *Reconciler) isDeleted(uid types.UID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, deleted := r.deleted[uid]
	return deleted && time.Since(since) < deletedMemory
}

func (r *Reconciler) rememberDeleted(uid types.UID, deleted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !deleted {
		delete(r.deleted, uid)
		return
	}
	maps.DeleteFunc(r.deleted, func(_ types.UID, since time.Time) bool { return time.Since(since) >= deletedMemory })
	r.deleted[uid] = time.Now()
}

// deleteRules is called while the owner has no other operation.
func (r *Reconciler) deleteRules(ctx context.Context, owner firewall.Owner, mode firewall.Mode) error {
	r.mu.Lock()
	delete(r.applied, owner.UID)
	delete(r.failures, owner.UID)
	r.mu.Unlock()
	if mode == firewall.Report {
		return r.firewall.Release(ctx, owner)
	}
	return r.firewall.Delete(ctx, owner)
}

// Owners returns the owners of this cluster that have rules, for garbage
// collection. In mode report it returns none, as an administrator deletes rules.
func (r *Reconciler) Owners(ctx context.Context, clusterID string, mode firewall.Mode) ([]firewall.Owner, error) {
	if mode == firewall.Report {
		return nil, nil
	}
	return r.firewall.Owners(ctx, clusterID)
}

// DeleteOrphan deletes the rules of a Service that does not exist, and reports
// whether there were any. It blocks until they are deleted. In mode report it
// does nothing.
func (r *Reconciler) DeleteOrphan(ctx context.Context, owner firewall.Owner, mode firewall.Mode) (deleted bool, err error) {
	if mode == firewall.Report {
		return false, nil
	}
	exists, err := r.firewall.Exists(ctx, owner)
	if err != nil || !exists {
		return false, err
	}
	if _, err := r.operations.wait(ctx, owner); err != nil {
		return true, fmt.Errorf("waiting for the last firewall operation of Service %s: %w", owner.Service, ctx.Err())
	}
	return true, r.deleteRules(ctx, owner, mode)
}
