package nodeproxy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// tables keeps the rules of one family in the kernel.
//
// Rules are written as iptables prints them. Right after installation, what it prints is compared
// with what was written; from then on, it must stay the same. A version that prints a rule in
// another form has to confirm one of each kind, which takes a process each.
//
// What iptables prints is read again only after the kernel's state has changed. Where the kernel
// does not tell, it is read from time to time.
type tables struct {
	iptables Iptables
	// applied is the ruleset that was installed and confirmed last, nil if the last attempt
	// failed. printed is the fingerprint of how iptables printed it then.
	applied *rules.Ruleset
	printed [sha256.Size]byte
	// verified is the state just before the last reading that found the applied rules.
	verified state
}

// state tells one state of the kernel's rules from another.
type state struct {
	generation uint32
	known      bool
	at         time.Time
}

func (t *tables) state() state {
	n, known := t.iptables.Generation()
	return state{n, known, time.Now()}
}

// unchanged reports whether the kernel still has the applied rules. A state of which the kernel does
// not tell whether it has changed counts as unchanged for the period unwatched.
func (t *tables) unchanged(unwatched time.Duration) bool {
	now := t.state()
	if now.known || t.verified.known {
		return now.known && t.verified.known && now.generation == t.verified.generation
	}
	return now.at.Before(t.verified.at.Add(unwatched))
}

// maxRewritten is how many kinds of rules iptables may print in a form of its own. The versions
// known print all rules as they are written.
const maxRewritten = 50

// install changes the installed rules to the wanted ones and confirms them.
func (t *tables) install(ctx context.Context, want *rules.Ruleset, installed rules.InstalledRules) error {
	t.applied = nil
	if err := t.iptables.Restore(ctx, want.Restore(installed)); err != nil {
		return err
	}
	before := t.state()
	installed, err := t.read(ctx)
	if err != nil {
		return err
	}
	if differences := want.Differences(installed); len(differences) > 0 {
		return fmt.Errorf("right after installation, %s", strings.Join(differences, "; "))
	}
	if err := t.confirm(ctx, want.Rewritten(installed)); err != nil {
		return err
	}
	t.applied, t.printed, t.verified = want, fingerprint(want.Specs(installed)), before
	return nil
}

// confirm returns an error unless iptables confirms that it has the rules that it prints in a form
// of its own.
func (t *tables) confirm(ctx context.Context, rewritten []rules.Rewritten) error {
	if len(rewritten) > 0 {
		klog.FromContext(ctx).Info("Confirming rules that iptables prints differently from how they were written", "kinds", len(rewritten), "first", rewritten[0])
	}
	for i, r := range rewritten {
		ok, err := t.iptables.Exists(r.Table, r.Chain, strings.Fields(r.Written)...)
		switch {
		case err == nil && !ok:
			err = fmt.Errorf("the kernel does not have it, but %q", r.Printed)
		case err == nil && i == maxRewritten:
			err = fmt.Errorf("iptables prints it and rules of %d other kinds differently from how they were written; use the iptables of the released image", len(rewritten)-1)
		}
		if err != nil {
			return fmt.Errorf("rule %q of chain %s, table %s: %w", r.Written, r.Chain, r.Table, err)
		}
	}
	return nil
}

// differences describes how the installed rules differ from the applied ones. It
// returns nothing if they do not differ.
func (t *tables) differences(installed rules.InstalledRules) []string {
	differences := t.applied.Differences(installed)
	if len(differences) == 0 && t.printed != fingerprint(t.applied.Specs(installed)) {
		return []string{"a rule was replaced by another"}
	}
	return differences
}

// fingerprint stands for rules, which take more memory.
func fingerprint(specs []string) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.Join(specs, "\n")))
}

func (t *tables) read(ctx context.Context) (rules.InstalledRules, error) {
	text, err := t.iptables.Save(ctx)
	if err != nil {
		return nil, err
	}
	return rules.ParseSave(text)
}
