// Package firewalltest has a firewall in memory, for tests.
package firewalltest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// Fake is a firewall.Firewall in memory. It has the same rules and returns the
// same changes as package firewall/gce does in the network "fake" if all nodes
// have the tag "node" and every Service has rules of its own. The zero value has
// no rules.
type Fake struct {
	mu      sync.Mutex
	rules   map[string]firewall.Rule
	writes  int
	fail    func(method string, owner firewall.Owner) error
	applied map[firewall.Owner]applied
}

// applied is what Ensure last did for an owner.
type applied struct {
	spec firewall.Spec
	// commands are those that Ensure returned.
	commands []string
}

var _ firewall.Firewall = &Fake{}

var target = firewall.Target{Network: "fake", Tags: []string{"node"}, NodeTags: [][]string{{"node"}}}

// FailWith makes all later calls call fail first, with the method's name
// ("Ensure", "Delete", "Release", "Exists", "Owners", "Drifted") and the owner;
// for Owners the owner has the cluster's id only, for Drifted nothing. If fail
// returns an error, the call returns it and changes nothing. While fail blocks,
// other calls proceed. Nil ends the failures.
func (f *Fake) FailWith(fail func(method string, owner firewall.Owner) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Rules returns a copy of all rules by name.
func (f *Fake) Rules() map[string]firewall.Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.rules)
}

// SetRule creates or replaces a rule as an administrator would.
func (f *Fake) SetRule(rule firewall.Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(rule)
}

// RemoveRule removes a rule as an administrator would.
func (f *Fake) RemoveRule(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.rules, name)
}

// Writes returns the number of changes that Ensure and Delete made.
func (f *Fake) Writes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// Ensure implements firewall.Firewall.
func (f *Fake) Ensure(ctx context.Context, spec firewall.Spec) (changes []string, err error) {
	if err := f.failure(ctx, "Ensure", spec.Owner); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	want, err := firewall.Desired(spec, target)
	if err != nil {
		return nil, err
	}
	if spec.Report {
		err = f.report(spec.Owner, want)
	} else {
		changes, err = f.apply(spec.Owner, want)
	}
	if f.applied == nil {
		f.applied = map[firewall.Owner]applied{}
	}
	var manual *firewall.ManualChangeError
	if errors.As(err, &manual) {
		f.applied[spec.Owner] = applied{spec, manual.Commands}
	} else if err == nil {
		f.applied[spec.Owner] = applied{spec, nil}
	}
	return changes, err
}

// Delete implements firewall.Firewall.
func (f *Fake) Delete(ctx context.Context, owner firewall.Owner) error {
	if err := f.failure(ctx, "Delete", owner); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.applied, owner)
	_, err := f.apply(owner, nil)
	return err
}

// Release implements firewall.Firewall.
func (f *Fake) Release(ctx context.Context, owner firewall.Owner) error {
	if err := f.failure(ctx, "Release", owner); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.applied, owner)
	return f.report(owner, nil)
}

// Exists implements firewall.Firewall.
func (f *Fake) Exists(ctx context.Context, owner firewall.Owner) (bool, error) {
	if err := f.failure(ctx, "Exists", owner); err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.all(), func(r firewall.Rule) bool { return r.BelongsTo(owner) }), nil
}

// Owners implements firewall.Firewall.
func (f *Fake) Owners(ctx context.Context, clusterID string) ([]firewall.Owner, error) {
	if err := f.failure(ctx, "Owners", firewall.Owner{ClusterID: clusterID}); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return firewall.OwnersAmong(f.all(), clusterID), nil
}

// Drifted implements firewall.Firewall.
func (f *Fake) Drifted(ctx context.Context) ([]firewall.Owner, error) {
	if err := f.failure(ctx, "Drifted", firewall.Owner{}); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var drifted []firewall.Owner
	for owner, last := range f.applied {
		want, err := firewall.Desired(last.spec, target)
		if err != nil {
			return nil, err
		}
		changes := firewall.Changes(owner, f.all(), want)
		if last.spec.Report {
			changes, err = firewall.MissingChanges(owner, f.all(), want, target.NodeTags)
		}
		if err != nil || !slices.Equal(firewall.Gcloud(target.Network, changes), last.commands) {
			drifted = append(drifted, owner)
		}
	}
	return drifted, nil
}

// failure is called without the lock, as fail may block.
func (f *Fake) failure(ctx context.Context, method string, owner firewall.Owner) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	fail := f.fail
	f.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail(method, owner)
}

// report returns what has to be done for owner as a *ManualChangeError.
func (f *Fake) report(owner firewall.Owner, want []firewall.Rule) error {
	changes, err := firewall.MissingChanges(owner, f.all(), want, target.NodeTags)
	if err != nil || len(changes) == 0 {
		return err
	}
	return &firewall.ManualChangeError{Owner: owner, Commands: firewall.Gcloud(target.Network, changes)}
}

// apply makes the changes and returns one line for each.
func (f *Fake) apply(owner firewall.Owner, want []firewall.Rule) ([]string, error) {
	var lines []string
	for _, change := range firewall.Changes(owner, f.all(), want) {
		if existing, exists := f.rules[change.Rule.Name]; exists && !existing.BelongsTo(owner) {
			return lines, &firewall.NotOursError{Rule: change.Rule.Name, Owner: owner}
		}
		if change.Action == firewall.Remove {
			delete(f.rules, change.Rule.Name)
		} else {
			f.set(change.Rule)
		}
		f.writes++
		lines = append(lines, change.String())
	}
	return lines, nil
}

// all returns the rules sorted by name.
func (f *Fake) all() []firewall.Rule {
	return slices.SortedFunc(maps.Values(f.rules), func(a, b firewall.Rule) int { return strings.Compare(a.Name, b.Name) })
}

func (f *Fake) set(rule firewall.Rule) {
	if f.rules == nil {
		f.rules = map[string]firewall.Rule{}
	}
	f.rules[rule.Name] = rule
}
