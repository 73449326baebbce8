package rules

import (
	"bufio"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Held is what one IP family's tables hold, by table and chain.
type Held map[string]map[string][]HeldRule

// HeldRule is a rule in the kernel.
type HeldRule struct {
	// Spec is the rule as iptables prints it, without "-A CHAIN".
	Spec string
	Count
}

// Count is a rule's counter.
type Count struct{ Packets, Bytes uint64 }

// ParseSave reads the output of iptables-save -c.
func ParseSave(text string) (Held, error) {
	held := Held{}
	table := ""
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" || line[0] == '#' || line == "COMMIT":
		case line[0] == '*':
			table = line[1:]
			held[table] = map[string][]HeldRule{}
		case table == "":
			return nil, fmt.Errorf("iptables-save printed %q before naming a table", line)
		case line[0] == ':':
			name, _, _ := strings.Cut(line[1:], " ")
			held[table][name] = nil
		default:
			chain, rule, err := parseRule(line)
			if err != nil {
				return nil, err
			}
			held[table][chain] = append(held[table][chain], rule)
		}
	}
	return held, lines.Err()
}

// parseRule reads a line like "[12:3456] -A INPUT -p tcp -j ACCEPT".
func parseRule(line string) (chain string, rule HeldRule, err error) {
	counter, rest, _ := strings.Cut(line, " -A ")
	packets, bytes, _ := strings.Cut(strings.Trim(counter, "[]"), ":")
	rule.Packets, err = strconv.ParseUint(packets, 10, 64)
	if err == nil {
		rule.Bytes, err = strconv.ParseUint(bytes, 10, 64)
	}
	if err != nil || rest == "" {
		return "", HeldRule{}, fmt.Errorf("iptables-save printed a line that is no rule with counters: %q", line)
	}
	chain, rule.Spec, _ = strings.Cut(rest, " ")
	return chain, rule, nil
}

// Restore returns the input for iptables-restore --noflush that turns held into
// the set: own chains are emptied and filled, a jump that is missing or not the
// first of its chain is put there, nothing else is touched. Each table changes
// in one step, so that no packet meets half of it.
func (s Set) Restore(held Held) string {
	var b strings.Builder
	for _, table := range s.tables() {
		fmt.Fprintf(&b, "*%s\n", table)
		for _, chain := range s.in(table) {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain.Name)
		}
		for _, chain := range s.in(table) {
			for _, rule := range chain.Rules {
				fmt.Fprintf(&b, "-A %s %s\n", chain.Name, strings.Join(rule.Spec, " "))
			}
			b.WriteString(chain.hookLines(held))
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// hookLines makes the jump to the chain its hook's first and only one.
func (c Chain) hookLines(held Held) string {
	if c.Hook == "" || c.hooked(held) {
		return ""
	}
	lines := strings.Repeat(fmt.Sprintf("-D %s %s\n", c.Hook, c.jump()), len(c.jumps(held)))
	return lines + fmt.Sprintf("-I %s 1 %s\n", c.Hook, c.jump())
}

func (c Chain) jump() string { return "-j " + c.Name }

// jumps returns the positions of the jumps to the chain within its hook.
func (c Chain) jumps(held Held) []int {
	var at []int
	for i, rule := range held[c.Table][c.Hook] {
		if rule.Spec == c.jump() {
			at = append(at, i)
		}
	}
	return at
}

func (c Chain) hooked(held Held) bool { return slices.Equal(c.jumps(held), []int{0}) }

// Remove returns the input for iptables-restore --noflush that deletes the set's
// chains, which must not be hooked.
func (s Set) Remove() string {
	var b strings.Builder
	for _, table := range s.tables() {
		fmt.Fprintf(&b, "*%s\n", table)
		for _, verb := range []string{"-F", "-X"} {
			for _, chain := range s.in(table) {
				fmt.Fprintf(&b, "%s %s\n", verb, chain.Name)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

func (s Set) tables() []string {
	var out []string
	for _, chain := range s.Chains {
		if !slices.Contains(out, chain.Table) {
			out = append(out, chain.Table)
		}
	}
	return out
}

func (s Set) in(table string) []Chain {
	var out []Chain
	for _, chain := range s.Chains {
		if chain.Table == table {
			out = append(out, chain)
		}
	}
	return out
}

// Differences returns what is wrong with the tables as far as can be told
// without knowing how iptables spells a rule: chains, jumps, and the number of
// rules. Empty means nothing is.
func (s Set) Differences(held Held) []string {
	var out []string
	for _, chain := range s.Chains {
		rules, exists := held[chain.Table][chain.Name]
		switch {
		case !exists:
			out = append(out, fmt.Sprintf("chain %s is missing from table %s", chain.Name, chain.Table))
		case len(rules) != len(chain.Rules):
			out = append(out, fmt.Sprintf("chain %s of table %s holds %d rules instead of %d", chain.Name, chain.Table, len(rules), len(chain.Rules)))
		}
		if chain.Hook != "" && !chain.hooked(held) {
			out = append(out, fmt.Sprintf("the jump to %s is not the first rule of %s in table %s", chain.Name, chain.Hook, chain.Table))
		}
	}
	return out
}

// Specs returns the rules of the set's own chains as the kernel's tools spell
// them, without counters, to be compared with an earlier reading.
func (s Set) Specs(held Held) []string {
	var out []string
	for _, chain := range s.Chains {
		for _, rule := range held[chain.Table][chain.Name] {
			out = append(out, chain.Table+" "+chain.Name+" "+rule.Spec)
		}
	}
	return out
}

// Counts returns what the meters of the set have counted. held must be without
// Differences.
func (s Set) Counts(held Held) map[Meter]Count {
	out := map[Meter]Count{}
	for _, chain := range s.Chains {
		for i, rule := range chain.Rules {
			if rule.Meter == (Meter{}) {
				continue
			}
			count := held[chain.Table][chain.Name][i].Count
			sum := out[rule.Meter]
			out[rule.Meter] = Count{sum.Packets + count.Packets, sum.Bytes + count.Bytes}
		}
	}
	return out
}
