package nodeproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// tables keeps the rules of one family in the kernel.
//
// iptables prints a rule differently from how it was written, and each version does so in its own
// way. So rules are verified in two steps: right after installation, iptables confirms each rule;
// from then on, what it prints must stay the same.
type tables struct {
	iptables Iptables
	// applied is the ruleset that was installed and confirmed last, nil if the last attempt
	// failed. printed is how iptables printed it then.
	applied *rules.Ruleset
	printed []string
}

// install changes the installed rules to the wanted ones and confirms them.
func (t *tables) install(ctx context.Context, want rules.Ruleset, installed rules.InstalledRules) error {
	t.applied = nil
	if err := t.iptables.Restore(ctx, want.Restore(installed)); err != nil {
		return err
	}
	for _, chain := range want.Chains {
		for _, rule := range chain.Rules {
			ok, err := t.iptables.Exists(chain.Table, chain.Name, rule.Spec...)
			if err == nil && !ok {
				err = errors.New("the kernel does not have it")
			}
			if err != nil {
				return fmt.Errorf("rule %q of chain %s, table %s: %w", strings.Join(rule.Spec, " "), chain.Name, chain.Table, err)
			}
		}
	}
	installed, err := t.read(ctx)
	if err != nil {
		return err
	}
	if differences := want.Differences(installed); len(differences) > 0 {
		return fmt.Errorf("right after installation, %s", strings.Join(differences, "; "))
	}
	t.applied, t.printed = &want, want.Specs(installed)
	return nil
}

// differences describes how the installed rules differ from the applied ones. It
// returns nothing if they do not differ.
func (t *tables) differences(installed rules.InstalledRules) []string {
	differences := t.applied.Differences(installed)
	if len(differences) == 0 && !slices.Equal(t.printed, t.applied.Specs(installed)) {
		return []string{"a rule was replaced by another"}
	}
	return differences
}

func (t *tables) read(ctx context.Context) (rules.InstalledRules, error) {
	text, err := t.iptables.Save(ctx)
	if err != nil {
		return nil, err
	}
	return rules.ParseSave(text)
}
