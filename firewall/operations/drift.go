package operations

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// driftTimeout bounds one comparison of all rules.
const driftTimeout = time.Minute

// DetectDrift compares all rules with the applied state, once per period until
// ctx is done. It calls enqueue for each Service whose rules differ; the next
// Ensure repairs them. Call it when all Services are known: without them, ports
// in rules that Services share seem to be orphans, and are deleted.
func (r *Reconciler) DetectDrift(ctx context.Context, period time.Duration, enqueue func(firewall.Owner)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait.Jitter(period, 0.1)):
			r.enqueueDrifted(ctx, enqueue)
		}
	}
}

func (r *Reconciler) enqueueDrifted(ctx context.Context, enqueue func(firewall.Owner)) {
	ctx, cancel := context.WithTimeout(ctx, driftTimeout)
	defer cancel()
	logger := klog.FromContext(ctx)
	drifted, err := r.firewall.Drifted(ctx)
	if err != nil {
		logger.Error(err, "Could not detect drift of the firewall, will retry")
		return
	}
	for _, owner := range drifted {
		logger.V(4).Info("Firewall rules differ from the applied state", "service", klog.KRef(owner.Service.Namespace, owner.Service.Name))
		r.markStale(owner)
		enqueue(owner)
	}
}

// markStale makes the next Ensure apply the state again.
func (r *Reconciler) markStale(owner firewall.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, known := r.applied[owner.UID]; known {
		last.stale = true
		r.applied[owner.UID] = last
	}
}
