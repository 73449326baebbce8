package provider

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// recheck is how long a Service's firewall is taken to be as it was left. Every
// node and every proxy that comes or goes has Services ensured; without it
// each would cost a request to the cloud's API.
const recheck = 30 * time.Second

// openings asks the firewall for changes, and not too often.
type openings struct {
	firewall firewall.Firewall
	now      func() time.Time

	mu   sync.Mutex
	last map[types.UID]opening
}

type opening struct {
	wanted string
	at     time.Time
}

func newOpenings(f firewall.Firewall) *openings {
	return &openings{firewall: f, now: time.Now, last: map[types.UID]opening{}}
}

// ensure makes what is open equal to spec; with managed false, nothing is open
// by our doing.
func (o *openings) ensure(ctx context.Context, spec firewall.Spec, managed bool) ([]string, error) {
	wanted := fmt.Sprintf("%t %v", managed, spec)
	if o.isRecent(spec.Owner.UID, wanted) {
		return nil, nil
	}
	began := o.now()
	var changes []string
	var err error
	if managed {
		changes, err = o.firewall.Ensure(ctx, spec)
	} else {
		err = o.firewall.Delete(ctx, spec.Owner)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.last, spec.Owner.UID)
	if err == nil {
		o.last[spec.Owner.UID] = opening{wanted, began}
	}
	return changes, err
}

func (o *openings) isRecent(uid types.UID, wanted string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	last, known := o.last[uid]
	return known && last.wanted == wanted && o.now().Sub(last.at) < recheck
}

// close closes everything that was opened for owner.
func (o *openings) close(ctx context.Context, owner firewall.Owner) error {
	o.mu.Lock()
	delete(o.last, owner.UID)
	o.mu.Unlock()
	return o.firewall.Delete(ctx, owner)
}
