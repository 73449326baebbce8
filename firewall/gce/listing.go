package gce

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// markedRule is a rule and whom its description names.
type markedRule struct {
	firewall.Rule
	// owner is the Service of a rule in the layout PerService.
	owner firewall.Owner
	// isShared reports that Services of the cluster share it.
	isShared bool
}

func (f *Firewall) marked(rule firewall.Rule) markedRule {
	owner, err := firewall.ParseMark(rule.Description)
	return markedRule{rule, owner, err != nil && rule.IsSharedIn(f.cluster.ID)}
}

// listing remembers the rules with marks of the cluster, as they were last listed and as they were
// changed here since. So all Services that need changes after one event cost one list.
type listing struct {
	// semaphore is held while rules are listed.
	semaphore chan struct{}

	mu sync.Mutex
	// rules are by name. began is when they were requested; zero: they are not known.
	rules map[string]markedRule
	began time.Time
	// changes are those made here while rules are listed, which the list may have or not. A rule without
	// a name was deleted. failed reports that the result of one is not known.
	changes map[string]markedRule
	failed  bool
}

func newListing() listing { return listing{semaphore: make(chan struct{}, 1)} }

// markedSince returns the rules with marks of the cluster, sorted by name, as they were at since or later.
func (f *Firewall) markedSince(ctx context.Context, since time.Time) ([]markedRule, error) {
	l := &f.listing
	select {
	case l.semaphore <- struct{}{}:
		defer func() { <-l.semaphore }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the list of firewall rules: %w", ctx.Err())
	}
	if rules, known := l.since(since); known {
		return rules, nil
	}
	_, marked, err := f.listMarked(ctx, fmt.Sprintf(`description eq ".*%s.*"`, f.cluster.ID))
	return marked, err
}

// listAll lists all rules of the project, and remembers those with marks of the cluster.
func (f *Firewall) listAll(ctx context.Context) ([]firewall.Rule, error) {
	select {
	case f.listing.semaphore <- struct{}{}:
		defer func() { <-f.listing.semaphore }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the list of firewall rules: %w", ctx.Err())
	}
	rules, _, err := f.listMarked(ctx, "")
	return rules, err
}

// listMarked lists rules, all with marks of the cluster among them, and remembers these. The caller has
// the semaphore.
func (f *Firewall) listMarked(ctx context.Context, filter string) (rules []firewall.Rule, marked []markedRule, err error) {
	began := f.listing.begin()
	if rules, err = f.list(ctx, filter); err != nil {
		return nil, nil, err
	}
	for _, rule := range rules {
		if m := f.marked(rule); m.isShared || m.owner.ClusterID == f.cluster.ID {
			marked = append(marked, m)
		}
	}
	return rules, f.listing.end(began, marked), nil
}

func (l *listing) since(since time.Time) ([]markedRule, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.IsZero() || l.began.Before(since) {
		return nil, false
	}
	return l.sorted(), true
}

func (l *listing) begin() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes, l.failed = map[string]markedRule{}, false
	return time.Now()
}

func (l *listing) end(began time.Time, listed []markedRule) []markedRule {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules, l.began = map[string]markedRule{}, began
	for _, rule := range listed {
		l.rules[rule.Name] = rule
	}
	for name, rule := range l.changes {
		l.apply(name, rule)
	}
	result := l.sorted()
	if l.changes = nil; l.failed {
		l.rules, l.began = nil, time.Time{}
	}
	return result
}

func (l *listing) sorted() []markedRule {
	return slices.SortedFunc(maps.Values(l.rules), func(a, b markedRule) int { return strings.Compare(a.Name, b.Name) })
}

func (l *listing) apply(name string, rule markedRule) {
	if rule.Name == "" {
		delete(l.rules, name)
	} else if l.rules != nil {
		l.rules[name] = rule
	}
}

// changed records a change that was made; a rule without a name was deleted.
func (l *listing) changed(name string, rule markedRule) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changes != nil {
		l.changes[name] = rule
	}
	l.apply(name, rule)
}

// forget forgets all rules, as it is not known what they are.
func (l *listing) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules, l.began, l.failed = nil, time.Time{}, true
}
