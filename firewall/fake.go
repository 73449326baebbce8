package firewall

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// Fake is a Firewall in memory, for tests. It keeps the same rules and reports
// the same changes as firewall/gce does against a network named "fake" whose
// nodes bear the tag "node". The zero value is an empty firewall.
type Fake struct {
	mu     sync.Mutex
	rules  map[string]Rule
	writes int
	fail   func(method string, owner Owner) error
	// left is what Ensure was last called with, and what it left undone.
	left map[Owner]fakeLeft
}

type fakeLeft struct {
	spec   Spec
	undone []string
}

var _ Firewall = &Fake{}

var fakeTarget = Target{Network: "fake", Tags: []string{"node"}}

// FailWith makes every later call ask f first, with the method's name
// ("Ensure", "Delete", "Abandon", "Exists", "Owners" and "Drifted", the last two with no
// more of an owner than the cluster's id at most). If f returns an error the
// call returns it and changes nothing; while f does not return, other calls go
// on. Nil switches failures off.
func (f *Fake) FailWith(fail func(method string, owner Owner) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Rules returns a copy of what is there, by rule name.
func (f *Fake) Rules() map[string]Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.rules)
}

// SetRule puts a rule there behind the program's back: a stranger's, or one
// edited by hand.
func (f *Fake) SetRule(rule Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(rule)
}

// RemoveRule removes a rule behind the program's back.
func (f *Fake) RemoveRule(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.rules, name)
}

// Writes counts the changes that calls of Ensure and Delete made so far.
func (f *Fake) Writes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// Ensure implements Firewall.
func (f *Fake) Ensure(ctx context.Context, spec Spec) ([]string, error) {
	if err := f.failure(ctx, "Ensure", spec.Owner); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	want, err := Desired(spec, fakeTarget)
	if err != nil {
		return nil, err
	}
	if spec.Report {
		err := f.report(spec.Owner, want)
		f.leave(spec, err)
		return nil, err
	}
	changes, err := f.apply(spec.Owner, want)
	f.leave(spec, err)
	return changes, err
}

// leave remembers how Ensure ended, if not in failure.
func (f *Fake) leave(spec Spec, err error) {
	if f.left == nil {
		f.left = map[Owner]fakeLeft{}
	}
	var byHand *ByHandError
	switch {
	case errors.As(err, &byHand):
		f.left[spec.Owner] = fakeLeft{spec, byHand.Commands}
	case err == nil:
		f.left[spec.Owner] = fakeLeft{spec, nil}
	}
}

func (f *Fake) report(owner Owner, want []Rule) error {
	unmet, err := f.unmet(owner, want)
	if err != nil || len(unmet) == 0 {
		return err
	}
	return &ByHandError{Owner: owner, Commands: unmet}
}

func (f *Fake) unmet(owner Owner, want []Rule) ([]string, error) {
	changes, err := Unmet(owner, slices.SortedFunc(maps.Values(f.rules), byName), want, true)
	return Gcloud("fake", changes), err
}

// Drifted implements Firewall.
func (f *Fake) Drifted(ctx context.Context) ([]Owner, error) {
	if err := f.failure(ctx, "Drifted", Owner{}); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var drifted []Owner
	for owner, left := range f.left {
		want, err := Desired(left.spec, fakeTarget)
		if err != nil {
			return nil, err
		}
		now, err := f.unmet(owner, want)
		if !left.spec.Report {
			now = Gcloud("fake", Changes(owner, slices.SortedFunc(maps.Values(f.rules), byName), want))
		}
		if err != nil || !slices.Equal(now, left.undone) {
			drifted = append(drifted, owner)
		}
	}
	return drifted, nil
}

// Delete implements Firewall.
func (f *Fake) Delete(ctx context.Context, owner Owner) error {
	if err := f.failure(ctx, "Delete", owner); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.left, owner)
	_, err := f.apply(owner, nil)
	return err
}

// Abandon implements Firewall.
func (f *Fake) Abandon(ctx context.Context, owner Owner) error {
	if err := f.failure(ctx, "Abandon", owner); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.left, owner)
	return f.report(owner, nil)
}

// Exists implements Firewall.
func (f *Fake) Exists(ctx context.Context, owner Owner) (bool, error) {
	if err := f.failure(ctx, "Exists", owner); err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rule := range f.rules {
		if rule.BelongsTo(owner) {
			return true, nil
		}
	}
	return false, nil
}

// Owners implements Firewall.
func (f *Fake) Owners(ctx context.Context, clusterID string) ([]Owner, error) {
	if err := f.failure(ctx, "Owners", Owner{ClusterID: clusterID}); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return OwnersAmong(slices.Collect(maps.Values(f.rules)), clusterID), nil
}

func (f *Fake) failure(ctx context.Context, method string, owner Owner) error {
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

// apply makes the changes and tells of them.
func (f *Fake) apply(owner Owner, want []Rule) ([]string, error) {
	var told []string
	have := slices.SortedFunc(maps.Values(f.rules), byName)
	for _, change := range Changes(owner, have, want) {
		current, there := f.rules[change.Rule.Name]
		if there && !current.BelongsTo(owner) {
			return told, &NotOursError{Rule: change.Rule.Name, Owner: owner}
		}
		if change.Action == Remove {
			delete(f.rules, change.Rule.Name)
		} else {
			f.put(change.Rule)
		}
		f.writes++
		told = append(told, change.String())
	}
	return told, nil
}

func (f *Fake) put(rule Rule) {
	if f.rules == nil {
		f.rules = map[string]Rule{}
	}
	f.rules[rule.Name] = rule
}
