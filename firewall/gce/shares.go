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

	mu     sync.Mutex
	claims map[firewall.Owner]claim
}

// claim is what is known of one Service.
type claim struct {
	rules    []firewall.Rule
	released bool
}

func newShares() shares {
	return shares{turn: make(chan struct{}, 1), claims: map[firewall.Owner]claim{}}
}

// errNoRoster keeps a mistake in wiring from closing ports.
var errNoRoster = errors.New("shared firewall rules cannot be changed without knowing all Services")

func (s *shares) set(owner firewall.Owner, rules []firewall.Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims[owner] = claim{rules: rules}
}

// wants says whether owner's claim is still what it wants.
func (s *shares) wants(owner firewall.Owner, want []firewall.Rule) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.EqualFunc(s.claims[owner].rules, want, func(a, b firewall.Rule) bool {
		return a.Name == b.Name && len(firewall.Diff(a, b)) == 0
	})
}

// release says that nothing is open for owner any more.
func (s *shares) release(owner firewall.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims[owner] = claim{released: true}
}

func (s *shares) isReleased(owner firewall.Owner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claims[owner].released
}

// forget makes owner a Service of which it is not known what it wants: its
// ports stay as they are.
func (s *shares) forget(owner firewall.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, owner)
}

// all returns what the Services want, and the ports of those of which it is
// not known. Services that are gone are forgotten.
func (s *shares) all(roster []firewall.Claim) (wanted []firewall.Rule, keep []firewall.Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	present := map[firewall.Owner]bool{}
	for _, r := range roster {
		present[r.Owner] = true
		if _, known := s.claims[r.Owner]; !known {
			keep = append(keep, r.Ports...)
		}
	}
	for owner, c := range s.claims {
		if len(c.rules) == 0 && !present[owner] {
			delete(s.claims, owner)
		}
		wanted = append(wanted, c.rules...)
	}
	return wanted, keep
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
	wanted, keep := f.shares.all(f.Roster())
	return firewall.ShareChanges(have, firewall.Share(clusterID, have, wanted, keep))
}
