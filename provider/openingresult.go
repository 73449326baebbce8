package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// opened is what came of opening a Service's ports.
type opened struct {
	warnings []warning
	// failed says that the ports may not be open, or not yet, and that we are to
	// blame.
	failed bool
	// again is after how long to try again; zero: when something happens.
	again time.Duration
}

// open opens the ports, after the proxies are wanted, so that never a port is
// open behind which something else may listen.
func (l *loadBalancer) open(ctx context.Context, svc *v1.Service, p *plan.Plan, o options.Options) opened {
	changes, repaired, err := l.openings.ensure(ctx, p.Firewall, o.Firewall)
	for _, line := range changes {
		if repaired {
			l.reporter.changed(svc, reasonFirewallRepaired, "somebody else had changed the firewall: "+line)
		} else {
			l.reporter.changed(svc, reasonFirewallChanged, line)
		}
	}
	return resultOf(err)
}

func resultOf(err error) opened {
	var byHand *firewall.ByHandError
	var underWay *underWayError
	switch {
	case err == nil:
		return opened{}
	case errors.As(err, &underWay):
		return opened{failed: true, warnings: resultOf(underWay.before).warnings}
	case errors.As(err, &byHand):
		result := opened{warnings: commandWarnings(byHand)}
		if byHand.Cause != nil {
			result.again = recheckRights
		}
		return result
	case gce.IsQuota(err):
		return opened{failed: true, again: recheck, warnings: []warning{{reason: reasonFirewallQuota, key: "quota", message: oneLine(err)}}}
	}
	return opened{failed: true, again: recheck, warnings: []warning{{
		reason: reasonFirewallFailed, message: oneLine(fmt.Errorf("opening the firewall: %w", err)), key: string(gce.KindOf(err)),
	}}}
}

// commandWarnings has one event for each command, to be copied as it is.
func commandWarnings(byHand *firewall.ByHandError) []warning {
	why := "the ports are not managed by hostport-ccm"
	if byHand.Cause != nil {
		why = oneLine(byHand.Cause)
	}
	var list []warning
	for _, command := range byHand.Commands {
		list = append(list, warning{
			reason: reasonFirewallByHand, key: command,
			message: fmt.Sprintf("somebody with the right to change the firewall has to run: %s (%s)", command, why),
		})
	}
	return list
}

// firewallMode is what holds for a Service, even one whose other annotations
// are broken.
func (l *loadBalancer) firewallMode(svc *v1.Service) options.FirewallMode {
	o, err := options.Parse(map[string]string{options.Firewall: svc.Annotations[options.Firewall]}, l.defaults)
	if err != nil || o.Firewall.Exceeds(l.defaults.Firewall) {
		return l.defaults.Firewall
	}
	return o.Firewall
}

// shut closes the firewall for a Service, or returns what somebody else has to do
// for that.
func (l *loadBalancer) shut(ctx context.Context, svc *v1.Service) ([]warning, error) {
	mode := l.firewallMode(svc)
	err := l.openings.close(ctx, l.settings.Owner(svc), mode)
	var byHand *firewall.ByHandError
	if mode == options.FirewallReport && errors.As(err, &byHand) {
		return commandWarnings(byHand), nil
	}
	if err != nil {
		return nil, fmt.Errorf("closing the firewall: %w", err)
	}
	return nil, nil
}
