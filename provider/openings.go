package provider

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

const (
	// recheck is after how long a firewall that could not be changed is tried
	// again.
	recheck = 30 * time.Second
	// recheckRights is the same for want of the right to change it.
	recheckRights = 5 * time.Minute
)

// openings asks the firewall for changes, and only where something may have
// changed: every node and every proxy that comes or goes has Services ensured,
// and each would cost a request to the cloud's API.
type openings struct {
	firewall firewall.Firewall

	mu   sync.Mutex
	last map[types.UID]opening
}

// opening is how a Service's firewall was left.
type opening struct {
	wanted string
	// byHand is what somebody else has to do.
	byHand *firewall.ByHandError
	// doubtful says that somebody has changed it since.
	doubtful bool
}

func newOpenings(f firewall.Firewall) *openings {
	return &openings{firewall: f, last: map[types.UID]opening{}}
}

// ensure makes what is open equal to spec. In mode none, nothing is open by our
// doing; in mode report, the error is a *firewall.ByHandError while somebody
// else has something to do. repaired says that the changes undo what somebody
// else did.
func (o *openings) ensure(ctx context.Context, spec firewall.Spec, mode options.FirewallMode) (changes []string, repaired bool, err error) {
	spec.Report = mode == options.FirewallReport
	wanted := fmt.Sprintf("%s %v", mode, spec)
	last := o.get(spec.Owner.UID)
	if last.wanted == wanted && !last.doubtful {
		return nil, false, asError(last.byHand)
	}
	if mode == options.FirewallNone {
		err = o.firewall.Delete(ctx, spec.Owner)
	} else {
		changes, err = o.firewall.Ensure(ctx, spec)
	}
	o.set(spec.Owner.UID, wanted, err)
	return changes, last.wanted == wanted && last.byHand == nil, err
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

// exists says whether anything may be open for a Service. In report mode, which
// does without the right to look, what cannot be seen may be open.
func (o *openings) exists(ctx context.Context, owner firewall.Owner, mode options.FirewallMode) (bool, error) {
	open, err := o.firewall.Exists(ctx, owner)
	if mode == options.FirewallReport && gce.IsForbidden(err) {
		return true, nil
	}
	return open, err
}

// close closes everything that was opened for owner. In report mode it says
// what somebody else has to do, and is content with that.
func (o *openings) close(ctx context.Context, owner firewall.Owner, mode options.FirewallMode) error {
	o.mu.Lock()
	delete(o.last, owner.UID)
	o.mu.Unlock()
	if mode == options.FirewallReport {
		return o.firewall.Abandon(ctx, owner)
	}
	return o.firewall.Delete(ctx, owner)
}
