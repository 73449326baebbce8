package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/firewall/operations"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

const (
	// firewallRetry is after how long a failed firewall operation is retried.
	firewallRetry = 30 * time.Second
	// firewallPermissionRetry is the same if a permission is missing.
	firewallPermissionRetry = 5 * time.Minute
)

// ensureFirewall makes the firewall allow what spec needs. It reports whether new addresses may be
// published: false while the outcome is not known or the operation failed. If an administrator
// has to change the firewall, they may be published, as rules may exist that cannot be seen from
// here.
func (r *reconciliation) ensureFirewall(ctx context.Context, spec firewall.Spec) (allowed bool) {
	spec.Since = r.cluster.Taken
	result, err := r.firewall.Ensure(ctx, spec, r.options.Firewall)
	countFirewallChanges(result)
	for _, line := range result.Changes {
		if result.Repaired {
			r.events.Normal(r.svc, events.FirewallRepaired, "the firewall had been changed by others: "+line)
		} else {
			r.events.Normal(r.svc, events.FirewallChanged, line)
		}
	}
	outcome := classify(err)
	r.warnings = append(r.warnings, outcome.warnings...)
	if outcome.retryAfter > 0 {
		r.services.EnqueueAfter(nameOf(r.svc), outcome.retryAfter)
	}
	return !outcome.failed
}

// firewallOutcome is what follows from the result of a firewall operation.
type firewallOutcome struct {
	warnings []events.Warning
	// failed reports that the ports are possibly not open yet.
	failed bool
	// retryAfter is zero if another event leads to the next attempt.
	retryAfter time.Duration
}

func classify(err error) firewallOutcome {
	var manual *firewall.ManualChangeError
	var inProgress *operations.InProgressError
	switch {
	case err == nil:
		return firewallOutcome{}
	case errors.As(err, &inProgress):
		return firewallOutcome{failed: true, warnings: classify(inProgress.Previous).warnings}
	case errors.As(err, &manual):
		outcome := firewallOutcome{warnings: manualChangeWarnings(manual)}
		if manual.Cause != nil {
			outcome.retryAfter = firewallPermissionRetry
		}
		return outcome
	case firewall.IsQuota(err):
		return firewallOutcome{failed: true, retryAfter: firewallRetry, warnings: []events.Warning{{
			Reason: events.FirewallQuotaExceeded, Key: "quota", Message: oneLine(err),
		}}}
	}
	return firewallOutcome{failed: true, retryAfter: firewallRetry, warnings: []events.Warning{{
		Reason: events.FirewallUpdateFailed, Key: string(firewall.KindOf(err)), Message: oneLine(fmt.Errorf("updating the firewall: %w", err)),
	}}}
}

// manualChangeWarnings returns one warning for each command, so that it can be copied.
func manualChangeWarnings(manual *firewall.ManualChangeError) []events.Warning {
	why := "the firewall is not managed by hostport-ccm"
	if manual.Cause != nil {
		why = oneLine(manual.Cause)
	}
	var list []events.Warning
	for _, command := range manual.Commands {
		list = append(list, events.Warning{
			Reason: events.ManualChange, Key: command,
			Message: fmt.Sprintf("firewall change required by an administrator: %s (%s)", command, why),
		})
	}
	return list
}

// detectDrift enqueues Services whose firewall rules others have changed, until ctx is done. It
// starts when all Services are known, as rules of unknown Services are orphans.
func detectDrift(ctx context.Context, fw *operations.Reconciler, synced cache.InformerSynced, period time.Duration, services *view.Services) {
	if cache.WaitForCacheSync(ctx.Done(), synced) {
		fw.DetectDrift(ctx, period, func(owner firewall.Owner) { services.Enqueue(owner.Service) })
	}
}
