package nodeproxy

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// tables keeps one family's rules in the kernel equal to what is wanted.
//
// How iptables spells a rule differs from how it is written and from version to
// version, so equality is established in two steps: right after programming,
// iptables itself confirms every rule; from then on its spelling at that moment
// is what must not change.
type tables struct {
	iptables Iptables
	// applied is what was last programmed and confirmed, spelt is how iptables
	// printed it then.
	applied *rules.Ruleset
	spelt   []string
}

func (t *tables) read(ctx context.Context) (rules.InstalledRules, error) {
	text, err := t.iptables.Save(ctx)
	if err != nil {
		return nil, err
	}
	return rules.ParseSave(text)
}

// programmed says whether want is what was last programmed.
func (t *tables) programmed(want rules.Ruleset) bool {
	return t.applied != nil && reflect.DeepEqual(*t.applied, want)
}

// differences says what in the kernel is not as wanted. Empty means nothing is.
func (t *tables) differences(want rules.Ruleset, installed rules.InstalledRules) []string {
	if !t.programmed(want) {
		return []string{"the rules for this config were not programmed yet"}
	}
	out := want.Differences(installed)
	if len(out) == 0 && !slices.Equal(t.spelt, want.Specs(installed)) {
		return []string{"a rule was replaced by another"}
	}
	return out
}

// program makes the kernel, which holds installed, equal to want and confirms it.
func (t *tables) program(ctx context.Context, want rules.Ruleset, installed rules.InstalledRules) error {
	t.applied = nil
	if err := t.iptables.Restore(ctx, want.Restore(installed)); err != nil {
		return err
	}
	if err := t.confirm(want); err != nil {
		return err
	}
	installed, err := t.read(ctx)
	if err != nil {
		return err
	}
	if differences := want.Differences(installed); len(differences) > 0 {
		return fmt.Errorf("right after programming, %s", strings.Join(differences, "; "))
	}
	t.applied, t.spelt = &want, want.Specs(installed)
	return nil
}

// install makes the kernel equal to set, without confirming it.
func (t *tables) install(ctx context.Context, set rules.Ruleset) error {
	installed, err := t.read(ctx)
	if err != nil {
		return err
	}
	return t.iptables.Restore(ctx, set.Restore(installed))
}

// confirm asks iptables for every single rule.
func (t *tables) confirm(want rules.Ruleset) error {
	for _, chain := range want.Chains {
		for _, rule := range chain.Rules {
			ok, err := t.iptables.Exists(chain.Table, chain.Name, rule.Spec...)
			if err == nil && !ok {
				err = fmt.Errorf("the kernel does not hold it")
			}
			if err != nil {
				return fmt.Errorf("rule %q of chain %s, table %s: %w", strings.Join(rule.Spec, " "), chain.Name, chain.Table, err)
			}
		}
	}
	return nil
}
