package gce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// shares knows what Services want of the rules they share.
type shares struct {
	// turn is taken to change shared rules. Who waits for it finds, as a rule,
	// that the one before has made the changes of all who waited.
	turn chan struct{}

	mu sync.Mutex
	// claims are the rules that Services would have for themselves. One that is
	// not here keeps what is open for it.
	claims map[firewall.Owner][]firewall.Rule
}

func newShares() shares {
	return shares{turn: make(chan struct{}, 1), claims: map[firewall.Owner][]firewall.Rule{}}
}

// errNoRoster keeps a mistake in wiring from closing ports.
var errNoRoster = errors.New("shared firewall rules cannot be changed without knowing all Services")

func (s *shares) set(owner firewall.Owner, rules []firewall.Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims[owner] = rules
}

// wants says whether owner's claim is still what it wants.
func (s *shares) wants(owner firewall.Owner, want []firewall.Rule) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.EqualFunc(s.claims[owner], want, func(a, b firewall.Rule) bool {
		return a.Name == b.Name && len(firewall.Diff(a, b)) == 0
	})
}

// forget has owner keep what is open for it, as the marks of the rules say.
func (s *shares) forget(owner firewall.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, owner)
}

// all returns what the Services want, and those that keep what they have.
// Services that are gone are forgotten.
func (s *shares) all(roster []firewall.Owner) (wanted []firewall.Rule, stay []firewall.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	present := map[firewall.Owner]bool{}
	for _, owner := range roster {
		present[owner] = true
		if _, known := s.claims[owner]; !known {
			stay = append(stay, owner)
		}
	}
	for owner, rules := range s.claims {
		if len(rules) == 0 && !present[owner] {
			delete(s.claims, owner)
		}
		wanted = append(wanted, rules...)
	}
	return wanted, stay
}

// owners are all Services for which something may be open.
func (s *shares) owners(roster []firewall.Owner) []firewall.Owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(roster)
	for owner, rules := range s.claims {
		if len(rules) > 0 {
			all = append(all, owner)
		}
	}
	return all
}

// share makes the shared rules equal to what all Services want, of which owner
// wants its part to be as in want, now. A rule that is missing is created by
// those Services only that take part in it. own are the rules that the Service
// has for itself.
func (f *Firewall) share(ctx context.Context, owner firewall.Owner, want []firewall.Rule) (told []string, own []firewall.Rule, err error) {
	if f.Roster == nil {
		return nil, nil, errNoRoster
	}
	f.shares.set(owner, want)
	select {
	case f.shares.turn <- struct{}{}:
		defer func() { <-f.shares.turn }()
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("waiting for another change of the shared firewall rules: %w", ctx.Err())
	}
	own, have, err := f.look(ctx, owner)
	if err != nil {
		return nil, nil, err
	}
	var ours []firewall.Change
	for _, change := range f.shareChanges(owner.ClusterID, have) {
		if change.Action != firewall.Create || change.Rule.SharesWith(want) {
			ours = append(ours, change)
		}
	}
	told, err = f.carryOut(ctx, owner, ours)
	return told, own, err
}

func (f *Firewall) shareChanges(clusterID string, have []firewall.Rule) []firewall.Change {
	wanted, stay := f.shares.all(f.Roster())
	return firewall.ShareChanges(have, firewall.Share(clusterID, have, wanted, stay))
}
