package rules

import (
	"bufio"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// InstalledRules are the rules in the kernel's tables of one IP family, by table
// and chain.
type InstalledRules map[string]map[string][]InstalledRule

// InstalledRule is a rule in the kernel.
type InstalledRule struct {
	// Spec is the rule as iptables prints it, without "-A CHAIN".
	Spec string
	Count
}

// Count is a rule's counter.
type Count struct{ Packets, Bytes uint64 }

// ParseSave parses the output of iptables-save -c.
func ParseSave(text string) (InstalledRules, error) {
	installed := InstalledRules{}
	table := ""
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" || line[0] == '#' || line == "COMMIT":
		case line[0] == '*':
			table = line[1:]
			installed[table] = map[string][]InstalledRule{}
		case table == "":
			return nil, fmt.Errorf("iptables-save printed %q before naming a table", line)
		case line[0] == ':':
			name, _, _ := strings.Cut(line[1:], " ")
			installed[table][name] = nil
		default:
			chain, rule, err := parseRule(line)
			if err != nil {
				return nil, err
			}
			installed[table][chain] = append(installed[table][chain], rule)
		}
	}
	return installed, lines.Err()
}

// parseRule parses a line like "[12:3456] -A INPUT -p tcp -j ACCEPT".
func parseRule(line string) (chain string, rule InstalledRule, err error) {
	counter, rest, _ := strings.Cut(line, " -A ")
	packets, bytes, _ := strings.Cut(strings.Trim(counter, "[]"), ":")
	rule.Packets, err = strconv.ParseUint(packets, 10, 64)
	if err == nil {
		rule.Bytes, err = strconv.ParseUint(bytes, 10, 64)
	}
	if err != nil || rest == "" {
		return "", InstalledRule{}, fmt.Errorf("iptables-save printed a line that is not a rule with counters: %q", line)
	}
	chain, rule.Spec, _ = strings.Cut(rest, " ")
	return chain, rule, nil
}

// Restore returns the input for iptables-restore --noflush that changes the
// installed rules to the ruleset. It empties and fills the proxy's own chains,
// deletes those that the ruleset does not have, and makes each jump the first
// rule of its hook; it changes nothing else. Each table changes in one step, so
// no packet meets a part of the new rules.
func (r Ruleset) Restore(installed InstalledRules) string {
	return r.text(func(b *strings.Builder, chains []Chain) {
		for _, chain := range chains {
			fmt.Fprintf(b, ":%s - [0:0]\n", chain.Name)
		}
		for _, chain := range chains {
			for _, rule := range chain.Rules {
				fmt.Fprintf(b, "-A %s %s\n", chain.Name, rule.Spec)
			}
			if chain.hooked(installed) {
				continue
			}
			for range chain.jumps(installed) {
				fmt.Fprintf(b, "-D %s -j %s\n", chain.Hook, chain.Name)
			}
			fmt.Fprintf(b, "-I %s 1 -j %s\n", chain.Hook, chain.Name)
		}
		remove(b, r.unwanted(installed[chains[0].Table], chains))
	})
}

// Remove returns the input for iptables-restore --noflush that deletes the
// ruleset's chains. No hook may jump to them.
func (r Ruleset) Remove() string {
	return r.text(func(b *strings.Builder, chains []Chain) {
		var names []string
		for _, chain := range chains {
			names = append(names, chain.Name)
		}
		remove(b, names)
	})
}

// remove writes the lines that delete chains, which may jump to each other.
func remove(b *strings.Builder, names []string) {
	for _, command := range []string{"-F", "-X"} {
		for _, name := range names {
			fmt.Fprintf(b, "%s %s\n", command, name)
		}
	}
}

// unwanted returns the chains with the ruleset's prefix in a table that are not among the given ones.
func (r Ruleset) unwanted(table map[string][]InstalledRule, chains []Chain) []string {
	wanted := map[string]bool{}
	for _, chain := range chains {
		wanted[chain.Name] = true
	}
	var out []string
	for name := range table {
		if strings.HasPrefix(name, r.prefix) && !wanted[name] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// text returns input for iptables-restore; write adds the lines for the chains
// of one table.
func (r Ruleset) text(write func(b *strings.Builder, chains []Chain)) string {
	var b strings.Builder
	for _, chains := range r.byTable() {
		fmt.Fprintf(&b, "*%s\n", chains[0].Table)
		write(&b, chains)
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// byTable returns the chains of each table, in the order of the tables.
func (r Ruleset) byTable() (out [][]Chain) {
	for rest := r.Chains; len(rest) > 0; {
		end := slices.IndexFunc(rest, func(c Chain) bool { return c.Table != rest[0].Table })
		if end < 0 {
			end = len(rest)
		}
		out = append(out, rest[:end])
		rest = rest[end:]
	}
	return out
}

// hooked reports whether the only jump to the chain is the first rule of its
// hook. It is true for a chain without a hook.
func (c Chain) hooked(installed InstalledRules) bool {
	return c.Hook == "" || slices.Equal(c.jumps(installed), []int{0})
}

// jumps returns the positions of the jumps to the chain within its hook.
func (c Chain) jumps(installed InstalledRules) []int {
	var positions []int
	for i, rule := range installed[c.Table][c.Hook] {
		if rule.Spec == "-j "+c.Name {
			positions = append(positions, i)
		}
	}
	return positions
}

// Differences describes how the installed rules differ from the ruleset, as far
// as this does not depend on how iptables prints a rule: chains, jumps, and the
// number of rules. It returns nothing if they do not differ.
func (r Ruleset) Differences(installed InstalledRules) []string {
	var out []string
	for _, chain := range r.Chains {
		rules, exists := installed[chain.Table][chain.Name]
		switch {
		case !exists:
			out = append(out, fmt.Sprintf("chain %s is missing from table %s", chain.Name, chain.Table))
		case len(rules) != len(chain.Rules):
			out = append(out, fmt.Sprintf("chain %s of table %s has %d rules instead of %d", chain.Name, chain.Table, len(rules), len(chain.Rules)))
		}
		if !chain.hooked(installed) {
			out = append(out, fmt.Sprintf("the jump to %s is not the first rule of %s in table %s", chain.Name, chain.Hook, chain.Table))
		}
	}
	for _, chains := range r.byTable() {
		for _, name := range r.unwanted(installed[chains[0].Table], chains) {
			out = append(out, fmt.Sprintf("chain %s of table %s is from another config", name, chains[0].Table))
		}
	}
	return out
}

// Rewritten is an installed rule that iptables prints differently from how it was written.
type Rewritten struct {
	Table, Chain string
	// Written is its Spec, and Printed what iptables prints.
	Written, Printed string
}

// Rewritten returns one rule of each kind that iptables prints differently from how it was written.
// Two rules are of one kind if both differ alike: they are equal, as written and as printed, but for
// values that are printed as they were written. The installed rules must not have Differences from
// the ruleset.
func (r Ruleset) Rewritten(installed InstalledRules) []Rewritten {
	var out []Rewritten
	seen := map[string]bool{}
	for _, chain := range r.Chains {
		for i, rule := range chain.Rules {
			printed := installed[chain.Table][chain.Name][i].Spec
			if printed == rule.Spec {
				continue
			}
			kind := strings.Join([]string{chain.Table, withoutValues(rule.Spec, rule.Spec), withoutValues(printed, rule.Spec)}, "\n")
			if !seen[kind] {
				seen[kind] = true
				out = append(out, Rewritten{chain.Table, chain.Name, rule.Spec, printed})
			}
		}
	}
	return out
}

// withoutValues returns the words of a rule, of which those that are addresses, numbers or numbered
// chains in spec are replaced by their position there.
func withoutValues(rule, spec string) string {
	words := strings.Fields(spec)
	var out []string
	for _, word := range strings.Fields(rule) {
		if at := slices.Index(words, word); at >= 0 && strings.ContainsAny(word, "0123456789") {
			word = fmt.Sprintf("$%d", at)
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

// Specs returns the installed rules of the ruleset's chains as iptables prints
// them, without counters.
func (r Ruleset) Specs(installed InstalledRules) []string {
	var out []string
	for _, chain := range r.Chains {
		for _, rule := range installed[chain.Table][chain.Name] {
			out = append(out, chain.Table+" "+chain.Name+" "+rule.Spec)
		}
	}
	return out
}

// Counts returns the sums of the ruleset's meters. It leaves out a chain whose
// number of installed rules differs from the ruleset.
func (r Ruleset) Counts(installed InstalledRules) map[Meter]Count {
	out := map[Meter]Count{}
	for _, chain := range r.Chains {
		rules := installed[chain.Table][chain.Name]
		for i, rule := range chain.Rules {
			if rule.Meter == (Meter{}) || len(rules) != len(chain.Rules) {
				continue
			}
			count, sum := rules[i].Count, out[rule.Meter]
			out[rule.Meter] = Count{sum.Packets + count.Packets, sum.Bytes + count.Bytes}
		}
	}
	return out
}
