package gce

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// Drifted implements firewall.Firewall. With Cluster.DeleteOrphans it first removes orphaned ports
// from shared rules. It compares with what the last specs need now: a tag that is removed from an
// instance counts as drift. Of the Services that share a rule it returns one.
func (f *Firewall) Drifted(ctx context.Context) ([]firewall.Owner, error) {
	states := f.ensured.all()
	if len(states) == 0 && !f.cluster.DeleteOrphans {
		return nil, nil
	}
	rules, err := f.deleteOrphanedPorts(ctx)
	if err != nil {
		return nil, fmt.Errorf("comparing the firewall with what is wanted: %w", err)
	}
	// Repairs are of shared rules. Without DeleteOrphans, all Services are in mode report: Ensure
	// makes none.
	var repairs []firewall.Change
	if f.cluster.DeleteOrphans {
		repairs = f.sharedRuleChanges(f.cluster.ID, sharedAmong(rules, f.cluster.ID))
	}
	byOwner := map[firewall.Owner][]firewall.Rule{}
	for _, rule := range rules {
		if marked := f.marked(rule); marked.owner != (firewall.Owner{}) {
			byOwner[marked.owner] = append(byOwner[marked.owner], rule)
		}
	}
	var drifted []firewall.Owner
	for _, owner := range slices.SortedFunc(maps.Keys(states), firewall.CompareOwners) {
		want, target, err := f.desiredNow(ctx, states[owner], rules)
		if err != nil || f.hasDrifted(states[owner], rules, byOwner[owner], want, target.NodeTags, &repairs) {
			drifted = append(drifted, owner)
		}
	}
	return drifted, nil
}

// deleteOrphanedPorts removes from shared rules the ports of Services that no
// longer exist and were not deleted here. It returns all rules of the network.
func (f *Firewall) deleteOrphanedPorts(ctx context.Context) ([]firewall.Rule, error) {
	rules, err := f.listAll(ctx)
	if err != nil || !f.cluster.DeleteOrphans {
		return rules, err
	}
	owners := f.needs.owners(f.cluster.Services())
	hasOrphans := func(r firewall.Rule) bool { return !r.IsSharedOnlyBy(owners) }
	if !slices.ContainsFunc(sharedAmong(rules, f.cluster.ID), hasOrphans) {
		return rules, nil
	}
	// Without the permission the orphaned ports remain, which is no failure.
	if _, _, err := f.updateSharedRules(ctx, firewall.Owner{ClusterID: f.cluster.ID}, nil, time.Time{}); err != nil && !firewall.IsForbidden(err) {
		return nil, err
	}
	return f.listAll(ctx)
}

// desiredNow is desired for a spec that was ensured before.
func (f *Firewall) desiredNow(ctx context.Context, state ensuredState, rules []firewall.Rule) ([]firewall.Rule, firewall.Target, error) {
	target, err := f.target(ctx, state.spec, rules)
	if err != nil || slices.Equal(target.Tags, state.tags) {
		return state.want, target, err
	}
	want, err := firewall.Desired(state.spec, target)
	return want, target, err
}

// hasDrifted reports whether Ensure has to run again for the owner, of whom own are the rules, and removes from repairs those
// that this will make.
func (f *Firewall) hasDrifted(state ensuredState, rules, own, want []firewall.Rule, nodeTags [][]string, repairs *[]firewall.Change) bool {
	owner := state.spec.Owner
	if state.manual {
		commands, err := f.commands(owner, rules, want, nodeTags, state.cause)
		return err != nil || !slices.Equal(commands, state.commands)
	}
	if f.options.Layout != firewall.Shared {
		return len(firewall.Changes(owner, own, want)) > 0
	}
	if !f.needs.equal(owner, want) { // The target tags have changed.
		return true
	}
	before := len(*repairs)
	*repairs = slices.DeleteFunc(*repairs, func(c firewall.Change) bool { return c.Rule.IsSharedLike(want) })
	return len(own) > 0 || len(*repairs) < before
}

// ensuredStates has the state of each Service as Ensure last left it.
type ensuredStates struct {
	mu      sync.Mutex
	byOwner map[firewall.Owner]ensuredState
}

type ensuredState struct {
	spec firewall.Spec
	// tags are the target tags, with which the spec needs want.
	tags []string
	want []firewall.Rule
	// manual means that an administrator changes the rules, by these commands.
	manual   bool
	commands []string
	cause    error
}

func newEnsuredStates() ensuredStates {
	return ensuredStates{byOwner: map[firewall.Owner]ensuredState{}}
}

// record stores the result of Ensure. If Ensure failed there is none: the caller
// calls it again.
func (e *ensuredStates) record(spec firewall.Spec, tags []string, want []firewall.Rule, err error) {
	state := ensuredState{spec: spec, tags: tags, want: want, manual: spec.Report}
	var manual *firewall.ManualChangeError
	if errors.As(err, &manual) {
		state.manual, state.commands, state.cause, err = true, manual.Commands, manual.Cause, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		delete(e.byOwner, spec.Owner)
		return
	}
	e.byOwner[spec.Owner] = state
}

func (e *ensuredStates) forget(owner firewall.Owner) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byOwner, owner)
}

func (e *ensuredStates) all() map[firewall.Owner]ensuredState {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.byOwner)
}
