package firewall

import (
	"regexp"
	"slices"
	"strings"
)

// MissingChanges returns the changes that an administrator has to make for
// owner. rules are all those of the network. Rules that would only allow what
// other rules already allow, also without our mark, are not missing. nodeTags are as
// in AlreadyAllowed.
func MissingChanges(owner Owner, rules, want []Rule, nodeTags [][]string) ([]Change, error) {
	own := slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return !r.BelongsTo(owner) })
	var missing []Change
	for _, change := range Changes(owner, own, want) {
		if change.Action == Create {
			if AlreadyAllowed(rules, change.Rule, nodeTags) {
				continue
			}
			if slices.ContainsFunc(rules, func(r Rule) bool { return r.Name == change.Rule.Name }) {
				return nil, &NotOursError{Rule: change.Rule.Name, Owner: owner}
			}
		}
		missing = append(missing, change)
	}
	return missing, nil
}

// Gcloud returns the changes as gcloud commands for the project of the network.
func Gcloud(project string, changes []Change) []string {
	var commands []string
	for _, c := range changes {
		commands = append(commands, c.gcloud(project))
	}
	return commands
}

func (c Change) gcloud(project string) string {
	command := func(verb string, options ...string) string {
		words := append([]string{"gcloud", "compute", "firewall-rules", verb, c.Rule.Name, "--project=" + project}, options...)
		for i, word := range words {
			words[i] = quote(word)
		}
		return strings.Join(words, " ")
	}
	created := createFields
	if len(c.Rule.DestinationRanges) > 0 { // An empty list is no value for a new rule.
		created = append(slices.Clone(createFields), FieldDestinationRanges)
	}
	remove, create := command("delete", "--quiet"), command("create", c.Rule.flags(created)...)
	switch c.Action {
	case Remove:
		return remove
	case Replace:
		return remove + " && " + create
	case Update:
		var differing []string
		for _, d := range c.Differences {
			differing = append(differing, d.Field)
		}
		return command("update", c.Rule.flags(differing)...)
	}
	return create
}

// createFields are the fields that all our rules have.
var createFields = []string{FieldNetwork, FieldDirection, FieldPriority, FieldAllowed, FieldSourceRanges, FieldTargetTags, FieldDescription}

// gcloudFlags are the flags for the fields. An empty list is written as a flag
// with an empty value.
var gcloudFlags = map[string]string{
	FieldNetwork: "network", FieldDirection: "direction", FieldPriority: "priority", FieldAllowed: "allow", FieldDescription: "description",
	FieldSourceRanges: "source-ranges", FieldDestinationRanges: "destination-ranges", FieldSourceTags: "source-tags", FieldTargetTags: "target-tags",
	FieldSourceServiceAccounts: "source-service-accounts", FieldTargetServiceAccounts: "target-service-accounts",
}

func (r Rule) flags(names []string) []string {
	var flags []string
	for _, f := range fields {
		switch {
		case !slices.Contains(names, f.name):
		case f.name == FieldDisabled && r.Disabled:
			flags = append(flags, "--disabled")
		case f.name == FieldDisabled:
			flags = append(flags, "--no-disabled")
		default:
			flags = append(flags, "--"+gcloudFlags[f.name]+"="+strings.Join(f.of(r), ","))
		}
	}
	return flags
}

var plainWord = regexp.MustCompile(`^[-A-Za-z0-9_./:=,@%+]+$`)

// quote quotes a word for a POSIX shell, if it has to be.
func quote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
