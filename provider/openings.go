package provider

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/trigger"
)

const (
	// recheck is after how long a firewall that could not be changed is tried
	// again.
	recheck = 30 * time.Second
	// recheckRights is the same for want of the right to change it.
	recheckRights = 5 * time.Minute
	// waitForClosing is how many Services' deletions wait for the firewall at a
	// time, so that a few are done in one go and many leave workers to others.
	waitForClosing = 3
)

// openings asks the firewall for changes, and only where something may have
// changed: every node and every proxy that comes or goes has Services ensured,
// and each would cost a request to the cloud's API.
type openings struct {
	firewall firewall.Firewall
	errands  *errands
	patience time.Duration
	// closing has a place for each deletion that waits.
	closing chan struct{}

	mu   sync.Mutex
	last map[types.UID]opening
	// troubles are what the last errands failed with.
	troubles map[types.UID]error
}

// opening is how a Service's firewall was left.
type opening struct {
	wanted string
	// byHand is what somebody else has to do.
	byHand *firewall.ByHandError
	// doubtful says that somebody has changed it since.
	doubtful bool
}

// underWayError says that the firewall takes its time, and what was wrong when it
// was last asked.
type underWayError struct{ before error }

func (*underWayError) Error() string { return "the firewall is being changed" }

// newOpenings calls resume when the firewall, after it took its time, is done.
func newOpenings(f firewall.Firewall, resume func(types.NamespacedName)) *openings {
	return &openings{
		firewall: f,
		errands:  newErrands(resume),
		patience: patience,
		closing:  make(chan struct{}, waitForClosing),
		last:     map[types.UID]opening{},
		troubles: map[types.UID]error{},
	}
}

// ensure makes what is open equal to spec. In mode none, nothing is open by our
// doing; in mode report, the error is a *firewall.ByHandError while somebody
// else has something to do. It is an *underWayError while the outcome is not
// known. repaired says that the changes undo what somebody else did.
func (o *openings) ensure(ctx context.Context, spec firewall.Spec, mode options.FirewallMode) (changes []string, repaired bool, err error) {
	spec.Report = mode == options.FirewallReport
	wanted := fmt.Sprintf("%s %v", mode, spec)
	earlier, err := o.finish(ctx, spec.Owner)
	var underWay *underWayError
	if errors.As(err, &underWay) || earlier.wanted == wanted {
		return earlier.changes, earlier.repaired, err
	}
	last := o.get(spec.Owner.UID)
	if last.wanted == wanted && !last.doubtful {
		return earlier.changes, false, asError(last.byHand)
	}
	o.errands.start(ctx, spec.Owner, func() result { return o.change(ctx, spec, mode, wanted) })
	done, err := o.finish(ctx, spec.Owner)
	return append(earlier.changes, done.changes...), done.repaired, err
}

// finish waits for a Service's errand as long as there is patience, and
// returns its outcome.
func (o *openings) finish(ctx context.Context, owner firewall.Owner) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, o.patience)
	defer cancel()
	done, err := o.errands.finish(ctx, owner)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		return done, &underWayError{o.troubles[owner.UID]}
	}
	if done.wanted != "" {
		o.troubles[owner.UID] = done.err
	}
	return done, done.err
}

// change asks the firewall.
func (o *openings) change(ctx context.Context, spec firewall.Spec, mode options.FirewallMode, wanted string) result {
	last, done := o.get(spec.Owner.UID), result{wanted: wanted}
	if mode == options.FirewallNone {
		done.err = o.firewall.Delete(ctx, spec.Owner)
	} else {
		done.changes, done.err = o.firewall.Ensure(ctx, spec)
	}
	o.set(spec.Owner.UID, wanted, done.err)
	done.repaired = last.wanted == wanted && last.byHand == nil
	return done
}

func asError(byHand *firewall.ByHandError) error {
	if byHand == nil {
		return nil
	}
	return byHand
}

func (o *openings) get(uid types.UID) opening {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last[uid]
}

// set forgets a Service that failed, unless for want of rights or in report
// mode. What was lately refused for want of rights stays in doubt, so that it
// is tried again whenever the Service is looked at.
func (o *openings) set(uid types.UID, wanted string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.last, uid)
	next := opening{wanted: wanted}
	if errors.As(err, &next.byHand) {
		next.doubtful = next.byHand.Cause != nil
	} else if err != nil {
		return
	}
	o.last[uid] = next
}

// doubt has the firewall looked at again for these Services.
func (o *openings) doubt(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last, known := o.last[uid]; known {
		last.doubtful = true
		o.last[uid] = last
	}
}

// close closes everything that was opened for owner. In report mode it says
// what somebody else has to do, and is content with that. The error is
// trigger.ErrUnderWay if that takes its time and others are waiting already.
func (o *openings) close(ctx context.Context, owner firewall.Owner, mode options.FirewallMode) error {
	waiting, leave := o.wait(ctx)
	defer leave()
	wanted := "closed in mode " + string(mode)
	for ctx.Err() == nil {
		done, err := o.errands.finish(waiting, owner)
		if err != nil {
			return trigger.ErrUnderWay
		}
		if done.wanted == wanted {
			return done.err
		}
		o.errands.start(ctx, owner, func() result { return result{wanted: wanted, err: o.closeNow(ctx, owner, mode)} })
	}
	return trigger.ErrUnderWay
}

// wait returns how long a deletion may wait: as long as it takes, if there is a
// place left.
func (o *openings) wait(ctx context.Context) (context.Context, func()) {
	select {
	case o.closing <- struct{}{}:
		return ctx, func() { <-o.closing }
	default:
		return context.WithTimeout(ctx, o.patience)
	}
}

// closeNow is close without an errand, of which none may be under way.
func (o *openings) closeNow(ctx context.Context, owner firewall.Owner, mode options.FirewallMode) error {
	o.mu.Lock()
	delete(o.last, owner.UID)
	delete(o.troubles, owner.UID)
	o.mu.Unlock()
	if mode == options.FirewallReport {
		return o.firewall.Abandon(ctx, owner)
	}
	return o.firewall.Delete(ctx, owner)
}
