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
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
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
	cause    error
}

func newLeft() left { return left{services: map[firewall.Owner]outcome{}} }

// remember keeps what came of an Ensure. One that failed its caller repeats.
func (l *left) remember(spec firewall.Spec, err error) {
	o := outcome{spec: spec, byHand: spec.Report}
	var byHand *firewall.ByHandError
	failed := err != nil
	if errors.As(err, &byHand) {
		o.byHand, o.commands, o.cause, failed = true, byHand.Commands, byHand.Cause, false
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
	if len(services) == 0 && f.ClusterID == "" {
		return nil, nil
	}
	rules, err := f.sweep(ctx)
	if err != nil {
		return nil, fmt.Errorf("comparing the firewall with what is wanted: %w", err)
	}
	repairs := f.sharedRepairs(rules)
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

// sweep closes in shared rules what is open for Services that are gone without
// having been deleted here, and returns all rules.
func (f *Firewall) sweep(ctx context.Context) ([]firewall.Rule, error) {
	rules, err := f.list(ctx, "")
	if err != nil || f.ClusterID == "" || f.Roster == nil {
		return rules, err
	}
	owners := f.shares.owners(f.Roster())
	swept := !slices.ContainsFunc(sharedAmong(rules, f.ClusterID), func(r firewall.Rule) bool { return !r.OpensOnlyFor(owners) })
	if swept {
		return rules, nil
	}
	// Not for want of the right to: then only they stay.
	if _, _, err := f.share(ctx, firewall.Owner{ClusterID: f.ClusterID}, nil); err != nil && !gce.IsForbidden(err) {
		return nil, err
	}
	return f.list(ctx, "")
}

func compareOwners(a, b firewall.Owner) int {
	return cmp.Or(cmp.Compare(a.Service.String(), b.Service.String()), cmp.Compare(a.UID, b.UID))
}

// sharedRepairs are the changes that the shared rules need.
func (f *Firewall) sharedRepairs(rules []firewall.Rule) []firewall.Change {
	if f.ClusterID == "" || f.Roster == nil {
		return nil
	}
	return f.shareChanges(f.ClusterID, sharedAmong(rules, f.ClusterID))
}

// differs takes those of the repairs that it is going to have made.
func (f *Firewall) differs(o outcome, rules, want []firewall.Rule, repairs *[]firewall.Change) bool {
	if o.byHand {
		commands, err := f.commands(o.spec.Owner, rules, want, o.cause)
		return err != nil || !slices.Equal(commands, o.commands)
	}
	own := ownAmong(rules, o.spec.Owner)
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
