package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// Action is what a Change does.
type Action string

// The actions. Replace deletes and creates: some fields cannot be updated.
const (
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace"
	Remove  Action = "delete"
)

// Change is one step from the rules that exist to those that are wanted.
type Change struct {
	Action Action
	// Rule is the wanted rule; for Remove, the existing one.
	Rule Rule
	// Differences are the fields that differ, for Update and Replace.
	Differences []Difference
}

// String describes the change in one line, in the past tense, for events and
// logs.
func (c Change) String() string {
	switch c.Action {
	case Create:
		return fmt.Sprintf("created firewall rule %s: %s", c.Rule.Name, c.Rule.Summary())
	case Remove:
		return fmt.Sprintf("deleted firewall rule %s", c.Rule.Name)
	}
	var differences []string
	for _, d := range c.Differences {
		text := d.String()
		if d.Field == FieldDescription { // Long JSON.
			text = "the Services that share it"
		}
		differences = append(differences, text)
	}
	return fmt.Sprintf("%sd firewall rule %s: %s", c.Action, c.Rule.Name, strings.Join(differences, ", "))
}

// Changes returns the steps that turn have into want; both are rules of one owner. Of the rules in
// have that are not wanted it removes those with owner's mark. Steps that allow traffic come first.
func Changes(owner Owner, have, want []Rule) []Change {
	return changesBetween(have, want, func(r Rule) bool { return r.BelongsTo(owner) })
}

// changesBetween removes unwanted rules for which removable returns true.
func changesBetween(have, want []Rule, removable func(Rule) bool) []Change {
	var steps []Change
	for _, w := range want {
		i := slices.IndexFunc(have, func(h Rule) bool { return h.Name == w.Name })
		if i < 0 {
			steps = append(steps, Change{Action: Create, Rule: w})
			continue
		}
		differences := Diff(have[i], w)
		if len(differences) == 0 {
			continue
		}
		action := Update
		if slices.ContainsFunc(differences, Difference.immutable) {
			action = Replace
		}
		steps = append(steps, Change{Action: action, Rule: w, Differences: differences})
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(w Rule) bool { return w.Name == h.Name }) && removable(h) {
			steps = append(steps, Change{Action: Remove, Rule: h})
		}
	}
	return steps
}
