package gce

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// updateSharedRules makes the shared rules equal to what all Services claim, of
// which owner now claims want. A rule that does not exist is created only by a
// Service that has ports in it. own are the rules with owner's own mark.
func (f *Firewall) updateSharedRules(ctx context.Context, owner firewall.Owner, want []firewall.Rule) (lines []string, own []firewall.Rule, err error) {
	f.claims.set(owner, want)
	select {
	case f.claims.semaphore <- struct{}{}:
		defer func() { <-f.claims.semaphore }()
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("waiting for another change of the shared firewall rules: %w", ctx.Err())
	}
	own, have, err := f.find(ctx, owner)
	if err != nil {
		return nil, nil, err
	}
	changes := slices.DeleteFunc(f.sharedRuleChanges(owner.ClusterID, have), func(c firewall.Change) bool {
		return c.Action == firewall.Create && !c.Rule.IsSharedLike(want)
	})
	lines, err = f.applyAll(ctx, owner, changes)
	return lines, own, err
}

func (f *Firewall) sharedRuleChanges(clusterID string, have []firewall.Rule) []firewall.Change {
	wanted, keep := f.claims.all(f.cluster.Services())
	return firewall.SharedRuleChanges(have, firewall.AssignSharedRules(clusterID, have, wanted, keep))
}

// sharedRuleClaims are what the Services need in shared rules.
type sharedRuleClaims struct {
	// semaphore is held while shared rules are changed. Claims are set before:
	// the holder makes the changes of all that wait.
	semaphore chan struct{}

	mu sync.Mutex
	// byOwner has the rules that Services would have in the layout PerService.
	// A Service that has no entry keeps the ports that the rules have for it.
	byOwner map[firewall.Owner][]firewall.Rule
}

func newSharedRuleClaims() sharedRuleClaims {
	return sharedRuleClaims{semaphore: make(chan struct{}, 1), byOwner: map[firewall.Owner][]firewall.Rule{}}
}

func (c *sharedRuleClaims) set(owner firewall.Owner, rules []firewall.Rule) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byOwner[owner] = rules
}

func (c *sharedRuleClaims) forget(owner firewall.Owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byOwner, owner)
}

// equal reports whether owner's claim is want.
func (c *sharedRuleClaims) equal(owner firewall.Owner, want []firewall.Rule) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.EqualFunc(c.byOwner[owner], want, func(a, b firewall.Rule) bool {
		return a.Name == b.Name && len(firewall.Diff(a, b)) == 0
	})
}

// all returns the claimed rules, and those of the existing Services that have
// claimed nothing. It forgets empty claims of Services that do not exist.
func (c *sharedRuleClaims) all(existing []firewall.Owner) (wanted []firewall.Rule, keep []firewall.Owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	exists := map[firewall.Owner]bool{}
	for _, owner := range existing {
		exists[owner] = true
		if _, claimed := c.byOwner[owner]; !claimed {
			keep = append(keep, owner)
		}
	}
	for owner, rules := range c.byOwner {
		if len(rules) == 0 && !exists[owner] {
			delete(c.byOwner, owner)
		}
		wanted = append(wanted, rules...)
	}
	return wanted, keep
}

// owners returns the existing Services and those that claim any rules.
func (c *sharedRuleClaims) owners(existing []firewall.Owner) []firewall.Owner {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(existing)
	for owner, rules := range c.byOwner {
		if len(rules) > 0 {
			all = append(all, owner)
		}
	}
	return all
}
