package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// builtin are the built-in chains of the tables used here.
var builtin = map[string][]string{
	"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
	"nat":    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
}

// Fake is an iptables for tests: tables in memory that take iptables-restore's
// language as far as this package writes it, and refuse what the real one would
// refuse. A rule is kept as it was spelt.
type Fake struct{ installed InstalledRules }

// NewFake returns empty tables.
func NewFake() *Fake {
	installed := InstalledRules{}
	for table, chains := range builtin {
		installed[table] = map[string][]InstalledRule{}
		for _, chain := range chains {
			installed[table][chain] = nil
		}
	}
	return &Fake{installed}
}

// Restore does what iptables-restore --noflush does. Each table changes as a
// whole or not at all; tables committed before an error stay changed.
func (f *Fake) Restore(text string) error {
	table, chains := "", map[string][]InstalledRule(nil)
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case line == "COMMIT":
			f.installed[table], chains = chains, nil
			continue
		case line[0] == '*':
			table, chains = line[1:], maps.Clone(f.installed[line[1:]])
		}
		if chains == nil {
			return fmt.Errorf("line %d: no table to apply %q to", i+1, line)
		}
		if err := restoreLine(chains, builtin[table], line); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if chains != nil {
		return fmt.Errorf("table %s was not committed", table)
	}
	return nil
}

func restoreLine(chains map[string][]InstalledRule, builtin []string, line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	if verb[0] == ':' {
		chains[verb[1:]] = nil
		return nil
	}
	name, spec, _ := strings.Cut(rest, " ")
	installed, exists := chains[name]
	if verb[0] == '-' && !exists {
		return fmt.Errorf("no chain %s", name)
	}
	if _, target, jumps := strings.Cut(spec, "-j HOST"); jumps {
		if _, ok := chains["HOST"+target]; !ok {
			return fmt.Errorf("no chain HOST%s to jump to", target)
		}
	}
	return edit(chains, builtin, installed, verb, name, spec)
}

func edit(chains map[string][]InstalledRule, builtin []string, installed []InstalledRule, verb, name, spec string) error {
	switch verb {
	case "-A":
		chains[name] = append(slices.Clone(installed), InstalledRule{Spec: spec})
	case "-I":
		chains[name] = append([]InstalledRule{{Spec: strings.TrimPrefix(spec, "1 ")}}, installed...)
	case "-D":
		at := slices.IndexFunc(installed, func(r InstalledRule) bool { return r.Spec == spec })
		if at < 0 {
			return fmt.Errorf("no rule %q in chain %s", spec, name)
		}
		chains[name] = slices.Delete(slices.Clone(installed), at, at+1)
	case "-F":
		chains[name] = nil
	case "-X":
		if len(installed) > 0 || slices.Contains(builtin, name) || jumpedTo(chains, name) {
			return fmt.Errorf("chain %s is built in or in use", name)
		}
		delete(chains, name)
	}
	return nil
}

func jumpedTo(chains map[string][]InstalledRule, name string) bool {
	for _, rules := range chains {
		for _, rule := range rules {
			if strings.HasSuffix(rule.Spec, "-j "+name) {
				return true
			}
		}
	}
	return false
}

// Save prints the tables as iptables-save -c does.
func (f *Fake) Save() string {
	var b strings.Builder
	for _, table := range slices.Sorted(maps.Keys(f.installed)) {
		fmt.Fprintf(&b, "# a comment\n*%s\n", table)
		for _, chain := range slices.Sorted(maps.Keys(f.installed[table])) {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
		}
		for _, chain := range slices.Sorted(maps.Keys(f.installed[table])) {
			for _, rule := range f.installed[table][chain] {
				fmt.Fprintf(&b, "[%d:%d] -A %s %s\n", rule.Packets, rule.Bytes, chain, rule.Spec)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// Exists says whether the chain holds the rule.
func (f *Fake) Exists(table, chain string, spec ...string) (bool, error) {
	return slices.ContainsFunc(f.installed[table][chain], func(r InstalledRule) bool { return r.Spec == strings.Join(spec, " ") }), nil
}

// Count lets the rules of a chain whose spelling holds part count packets.
func (f *Fake) Count(table, chain, part string, count Count) {
	for i, rule := range f.installed[table][chain] {
		if strings.Contains(rule.Spec, part) {
			f.installed[table][chain][i].Packets += count.Packets
			f.installed[table][chain][i].Bytes += count.Bytes
		}
	}
}
