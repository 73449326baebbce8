package nodeproxytest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

var _ nodeproxy.Iptables = &Iptables{}

// builtin are the built-in chains of the tables that the proxy uses.
var builtin = map[string][]string{
	"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
	"nat":    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
}

// Iptables is a packet filter in memory. It understands the part of
// iptables-restore's language that package rules writes, and refuses what
// iptables refuses. It stores and prints a rule as it is written. Its methods are
// safe for concurrent use.
type Iptables struct {
	mu            sync.Mutex
	tables        rules.InstalledRules
	restoreErr    error
	alter, reword func(spec string) string
	processes     int
	generation    uint32
	unwatched     bool
}

// NewIptables returns a packet filter whose chains are the built-in ones, empty.
func NewIptables() *Iptables {
	tables := rules.InstalledRules{}
	for table, chains := range builtin {
		tables[table] = map[string][]rules.InstalledRule{}
		for _, chain := range chains {
			tables[table][chain] = nil
		}
	}
	same := func(spec string) string { return spec }
	return &Iptables{tables: tables, alter: same, reword: same}
}

// Flavour returns "fake".
func (f *Iptables) Flavour() string { return "fake" }

// FailRestore makes Restore return err and change nothing, until err is nil.
func (f *Iptables) FailRestore(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restoreErr = err
}

// Alter makes Restore append altered rules, as a kernel or program with a fault could.
func (f *Iptables) Alter(alter func(spec string) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alter = alter
}

// Reword makes Save print rules in another form, as another version of iptables could.
func (f *Iptables) Reword(reword func(spec string) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reword = reword
}

// Unwatched makes Generation return none, as that of flavour legacy.
func (f *Iptables) Unwatched() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unwatched = true
}

// Generation returns how many tables have been committed.
func (f *Iptables) Generation() (n uint32, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.generation, !f.unwatched
}

// Processes returns how many calls of Restore, Save and Exists there were. Each is a process.
func (f *Iptables) Processes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.processes
}

// Restore does what iptables-restore --noflush does. Each table changes as a
// whole or not at all. Tables committed before an error stay changed.
func (f *Iptables) Restore(_ context.Context, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.processes++
	if f.restoreErr != nil {
		return f.restoreErr
	}
	table, chains := "", map[string][]rules.InstalledRule(nil)
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case line == "COMMIT":
			f.tables[table], chains = chains, nil
			f.generation++
			continue
		case line[0] == '*':
			table, chains = line[1:], maps.Clone(f.tables[line[1:]])
			if chains == nil {
				return fmt.Errorf("line %d: no table %s", i+1, table)
			}
			continue
		}
		if chains == nil {
			return fmt.Errorf("line %d: no table to apply %q to", i+1, line)
		}
		if err := f.restoreLine(chains, builtin[table], line); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if chains != nil {
		return fmt.Errorf("table %s was not committed", table)
	}
	return nil
}

// restoreLine applies a line to the chains of its table. It replaces slices of
// rules and never changes them in place, since chains is a shallow copy.
func (f *Iptables) restoreLine(chains map[string][]rules.InstalledRule, builtin []string, line string) error {
	command, rest, _ := strings.Cut(line, " ")
	if command[0] == ':' {
		if !slices.Contains(builtin, command[1:]) { // whose policy it would set
			chains[command[1:]] = nil
		}
		return nil
	}
	name, spec, _ := strings.Cut(rest, " ")
	current, exists := chains[name]
	if !exists {
		return fmt.Errorf("no chain %s", name)
	}
	if target := targetOf(spec); strings.HasPrefix(target, "HOST") {
		if _, ok := chains[target]; !ok {
			return fmt.Errorf("no chain %s to jump to", target)
		}
	}
	switch command {
	case "-A":
		chains[name] = append(slices.Clone(current), rules.InstalledRule{Spec: f.alter(spec)})
	case "-I":
		chains[name] = append([]rules.InstalledRule{{Spec: strings.TrimPrefix(spec, "1 ")}}, current...)
	case "-D":
		at := slices.IndexFunc(current, func(r rules.InstalledRule) bool { return r.Spec == spec })
		if at < 0 {
			return fmt.Errorf("no rule %q in chain %s", spec, name)
		}
		chains[name] = slices.Delete(slices.Clone(current), at, at+1)
	case "-F":
		chains[name] = nil
	case "-X":
		if len(current) > 0 || slices.Contains(builtin, name) || hasJumpTo(chains, name) {
			return fmt.Errorf("chain %s is built in or in use", name)
		}
		delete(chains, name)
	default:
		return fmt.Errorf("unknown command %q", command)
	}
	return nil
}

// targetOf returns the last word of a rule, which is the chain if it jumps or goes to one.
func targetOf(spec string) string { return spec[strings.LastIndex(spec, " ")+1:] }

func hasJumpTo(chains map[string][]rules.InstalledRule, name string) bool {
	for _, list := range chains {
		for _, rule := range list {
			if targetOf(rule.Spec) == name {
				return true
			}
		}
	}
	return false
}

// Save prints the tables as iptables-save -c does.
func (f *Iptables) Save(context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.processes++
	var b strings.Builder
	for _, table := range slices.Sorted(maps.Keys(f.tables)) {
		fmt.Fprintf(&b, "# a comment\n*%s\n", table)
		for _, chain := range slices.Sorted(maps.Keys(f.tables[table])) {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
		}
		for _, chain := range slices.Sorted(maps.Keys(f.tables[table])) {
			for _, rule := range f.tables[table][chain] {
				fmt.Fprintf(&b, "[%d:%d] -A %s %s\n", rule.Packets, rule.Bytes, chain, f.reword(rule.Spec))
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String(), nil
}

// Exists reports whether the chain contains the rule.
func (f *Iptables) Exists(table, chain string, spec ...string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.processes++
	return slices.ContainsFunc(f.tables[table][chain], func(r rules.InstalledRule) bool { return r.Spec == strings.Join(spec, " ") }), nil
}

// Count adds to the counters of a chain's rules that contain part.
func (f *Iptables) Count(table, chain, part string, count rules.Count) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, rule := range f.tables[table][chain] {
		if strings.Contains(rule.Spec, part) {
			f.tables[table][chain][i].Packets += count.Packets
			f.tables[table][chain][i].Bytes += count.Bytes
		}
	}
}
