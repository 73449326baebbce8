package gce

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// updateSharedRules makes the shared rules equal to what all Services need, of which owner now
// needs want. A rule that does not exist is created only by a Service that has ports in it. own are
// the rules with owner's own mark. since is as in firewall.Spec.
func (f *Firewall) updateSharedRules(ctx context.Context, owner firewall.Owner, want []firewall.Rule, since time.Time) (lines []string, own []firewall.Rule, err error) {
	version := f.needs.set(owner, want)
	select {
	case f.needs.semaphore <- struct{}{}:
		defer func() { <-f.needs.semaphore }()
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("waiting for another change of the shared firewall rules: %w", ctx.Err())
	}
	own, have, err := f.find(ctx, owner, since)
	if err != nil || f.needs.areMet(version) {
		return nil, own, err
	}
	met := f.needs.last()
	all := f.sharedRuleChanges(owner.ClusterID, have)
	changes := slices.DeleteFunc(slices.Clone(all), func(c firewall.Change) bool {
		return c.Action == firewall.Create && !c.Rule.IsSharedLike(want)
	})
	if lines, err = f.applyAll(ctx, owner, changes); err == nil && len(changes) == len(all) {
		f.needs.setMet(met)
	}
	return lines, own, err
}

func (f *Firewall) sharedRuleChanges(clusterID string, have []firewall.Rule) []firewall.Change {
	wanted, keep := f.needs.all(f.cluster.Services())
	return firewall.SharedRuleChanges(have, firewall.AssignSharedRules(clusterID, have, wanted, keep))
}

// sharedRuleNeeds are what the Services need in shared rules.
type sharedRuleNeeds struct {
	// semaphore is held while shared rules are changed. Needs are set before: the holder makes
	// the changes of all that wait.
	semaphore chan struct{}

	mu sync.Mutex
	// byOwner has the rules that Services would have in the layout PerService.
	// A Service that has no entry keeps the ports that the rules have for it.
	byOwner map[firewall.Owner][]firewall.Rule
	// version counts the calls of set. The rules have met the needs up to the version met.
	version, met uint64
}

func newSharedRuleNeeds() sharedRuleNeeds {
	return sharedRuleNeeds{semaphore: make(chan struct{}, 1), byOwner: map[firewall.Owner][]firewall.Rule{}}
}

// set returns the version with the needs of owner.
func (n *sharedRuleNeeds) set(owner firewall.Owner, rules []firewall.Rule) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.byOwner[owner] = rules
	n.version++
	return n.version
}

func (n *sharedRuleNeeds) last() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.version
}

// areMet reports whether another Service's change has already met the needs of a version.
func (n *sharedRuleNeeds) areMet(version uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return version <= n.met
}

func (n *sharedRuleNeeds) setMet(version uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.met = version
}

func (n *sharedRuleNeeds) forget(owner firewall.Owner) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.byOwner, owner)
}

// equal reports whether owner needs want.
func (n *sharedRuleNeeds) equal(owner firewall.Owner, want []firewall.Rule) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.EqualFunc(n.byOwner[owner], want, func(a, b firewall.Rule) bool {
		return a.Name == b.Name && len(firewall.Diff(a, b)) == 0
	})
}

// all returns the needed rules, and the existing Services of which no needs are known, whose ports
// stay. It forgets Services that need nothing and do not exist.
func (n *sharedRuleNeeds) all(existing []firewall.Owner) (wanted []firewall.Rule, keep []firewall.Owner) {
	n.mu.Lock()
	defer n.mu.Unlock()
	exists := map[firewall.Owner]bool{}
	for _, owner := range existing {
		exists[owner] = true
		if _, known := n.byOwner[owner]; !known {
			keep = append(keep, owner)
		}
	}
	for owner, rules := range n.byOwner {
		if len(rules) == 0 && !exists[owner] {
			delete(n.byOwner, owner)
		}
		wanted = append(wanted, rules...)
	}
	return wanted, keep
}

// owners returns the existing Services and those that need any rules.
func (n *sharedRuleNeeds) owners(existing []firewall.Owner) []firewall.Owner {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := slices.Clone(existing)
	for owner, rules := range n.byOwner {
		if len(rules) > 0 {
			all = append(all, owner)
		}
	}
	return all
}
