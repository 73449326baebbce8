package gce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// left is how Ensure left the Services.
type left struct {
	mu       sync.Mutex
	services map[firewall.Owner]outcome
}

// outcome is what Ensure was asked for, and what it left for others to do.
type outcome struct {
	spec     firewall.Spec
	byHand   bool
	commands []string
}

func newLeft() left { return left{services: map[firewall.Owner]outcome{}} }

// remember keeps what came of an Ensure. One that failed its caller repeats.
func (l *left) remember(spec firewall.Spec, err error) {
	o := outcome{spec: spec, byHand: spec.Report}
	var byHand *firewall.ByHandError
	failed := err != nil
	if errors.As(err, &byHand) {
		o.byHand, o.commands, failed = true, byHand.Commands, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.services, spec.Owner)
	if !failed {
		l.services[spec.Owner] = o
	}
}

func (l *left) forget(owner firewall.Owner) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.services, owner)
}

func (l *left) all() map[firewall.Owner]outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.services)
}

// Drifted implements firewall.Firewall. It compares with what would be wanted
// now: a tag taken from an instance counts as well. Of Services that share a
// rule it names one.
func (f *Firewall) Drifted(ctx context.Context) ([]firewall.Owner, error) {
	services := f.left.all()
	if len(services) == 0 {
		return nil, f.sweep(ctx)
	}
	rules, err := f.list(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("comparing the firewall with what is wanted: %w", err)
	}
	repairs := f.sharedRepairs(rules, services)
	var drifted []firewall.Owner
	for _, owner := range slices.SortedFunc(maps.Keys(services), compareOwners) {
		o := services[owner]
		want, err := f.desired(ctx, o.spec)
		if err != nil || f.differs(o, rules, want, &repairs) {
			drifted = append(drifted, owner)
		}
	}
	return drifted, nil
}

// sweep removes shared rules that the last of all Services left behind, which
// went without being deleted here. No Service is there any more that could be
// ensured to that end.
func (f *Firewall) sweep(ctx context.Context) error {
	if f.ClusterID == "" || f.Roster == nil || len(f.Roster()) > 0 {
		return nil
	}
	_, _, err := f.share(ctx, firewall.Owner{ClusterID: f.ClusterID}, nil)
	return err
}

func compareOwners(a, b firewall.Owner) int {
	return cmp.Or(cmp.Compare(a.Service.String(), b.Service.String()), cmp.Compare(a.UID, b.UID))
}

// sharedRepairs are the changes that the shared rules need.
func (f *Firewall) sharedRepairs(rules []firewall.Rule, services map[firewall.Owner]outcome) []firewall.Change {
	if f.Roster == nil {
		return nil
	}
	for owner := range services { // All of one cluster.
		shared := slices.DeleteFunc(slices.Clone(rules), func(r firewall.Rule) bool { return !r.IsSharedBy(owner.ClusterID) })
		return f.shareChanges(owner.ClusterID, shared)
	}
	return nil
}

// differs takes those of the repairs that it is going to have made.
func (f *Firewall) differs(o outcome, rules, want []firewall.Rule, repairs *[]firewall.Change) bool {
	if o.byHand {
		commands, err := f.commands(o.spec.Owner, rules, want)
		return err != nil || !slices.Equal(commands, o.commands)
	}
	own := slices.DeleteFunc(slices.Clone(rules), func(r firewall.Rule) bool { return !r.BelongsTo(o.spec.Owner) })
	if f.Layout != firewall.Shared {
		return len(firewall.Changes(o.spec.Owner, own, want)) > 0
	}
	if !f.shares.wants(o.spec.Owner, want) { // The nodes' tags are others now.
		return true
	}
	before := len(*repairs)
	*repairs = slices.DeleteFunc(*repairs, func(c firewall.Change) bool { return c.Rule.SharesWith(want) })
	return len(own) > 0 || len(*repairs) < before
}
