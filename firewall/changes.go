package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// Action is what a Change does.
type Action string

// The actions. Replace is a delete and a create: some fields of a rule cannot
// be changed in place.
const (
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace"
	Remove  Action = "delete"
)

// Change is one step from what is there to what is wanted.
type Change struct {
	Action Action
	// Rule is the rule as wanted; for Remove, the rule as it is.
	Rule Rule
	// Differences say why, for Update and Replace.
	Differences []Difference
}

// String says what was done, for events and logs.
func (c Change) String() string {
	switch c.Action {
	case Create:
		return fmt.Sprintf("created firewall rule %s: %s", c.Rule.Name, c.Rule.Summary())
	case Remove:
		return fmt.Sprintf("deleted firewall rule %s", c.Rule.Name)
	}
	var why []string
	for _, d := range c.Differences {
		if d.Field == FieldDescription { // Long, and for programs.
			why = append(why, "who shares it")
			continue
		}
		why = append(why, d.String())
	}
	return fmt.Sprintf("%sd firewall rule %s: %s", c.Action, c.Rule.Name, strings.Join(why, ", "))
}

// Changes computes the steps from have to want. Have are the rules of one
// owner, and whatever else bears a wanted name: those that bear the mark of
// the wanted rules and are wanted no more go, others are not looked at.
// Opening comes before closing.
func Changes(owner Owner, have, want []Rule) []Change {
	return changesOf(have, want, func(r Rule) bool { return r.BelongsTo(owner) })
}

// changesOf removes what is not wanted if ours says so.
func changesOf(have, want []Rule, ours func(Rule) bool) []Change {
	var changes []Change
	for _, w := range want {
		i := slices.IndexFunc(have, func(h Rule) bool { return h.Name == w.Name })
		if i < 0 {
			changes = append(changes, Change{Action: Create, Rule: w})
		} else if differences := Diff(have[i], w); len(differences) > 0 {
			changes = append(changes, Change{Action: actionFor(differences), Rule: w, Differences: differences})
		}
	}
	for _, h := range have {
		wanted := slices.ContainsFunc(want, func(w Rule) bool { return w.Name == h.Name })
		if !wanted && ours(h) {
			changes = append(changes, Change{Action: Remove, Rule: h})
		}
	}
	return changes
}

// BelongsTo says whether the rule carries exactly owner's mark.
func (r Rule) BelongsTo(owner Owner) bool {
	marked, err := ParseMark(r.Description)
	return err == nil && marked == owner
}

// actionFor knows which fields the Compute API refuses to change.
func actionFor(differences []Difference) Action {
	fixed := func(d Difference) bool {
		return d.Field == FieldNetwork || d.Field == FieldDirection || d.Field == FieldDenied
	}
	if slices.ContainsFunc(differences, fixed) {
		return Replace
	}
	return Update
}
