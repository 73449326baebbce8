package firewall

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// ByHandError says that the firewall is not as wanted and that it is for
// somebody else to change it. Nothing is gained by trying again soon.
type ByHandError struct {
	Owner Owner
	// Commands bring about what is wanted, each ready for a shell.
	Commands []string
	// Cause is why they were not carried out; nil if that was not asked for.
	Cause error
}

// Error names the Service, the cause, and the commands.
func (e *ByHandError) Error() string {
	cause := ""
	if e.Cause != nil {
		cause = fmt.Sprintf(" (%v)", e.Cause)
	}
	return fmt.Sprintf("somebody with the right to change the firewall has to do it for Service %s%s: %s", e.Owner.Service, cause, strings.Join(e.Commands, " ; "))
}

// Unwrap returns the cause.
func (e *ByHandError) Unwrap() error { return e.Cause }

// Unmet computes the steps from rules, which are all of the network's, to what
// owner wants, without those that would open what some rule, whoever made it,
// lets in already. everyTag says that every node bears all of the target tags,
// not only one of them.
func Unmet(owner Owner, rules, want []Rule, everyTag bool) ([]Change, error) {
	own := slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return !r.BelongsTo(owner) })
	var unmet []Change
	for _, change := range Changes(owner, own, want) {
		if change.Action != Create {
			unmet = append(unmet, change)
			continue
		}
		if LetsIn(rules, change.Rule, everyTag) {
			continue
		}
		if slices.ContainsFunc(rules, func(r Rule) bool { return r.Name == change.Rule.Name }) {
			return nil, &NotOursError{Rule: change.Rule.Name, Owner: owner}
		}
		unmet = append(unmet, change)
	}
	return unmet, nil
}

// Gcloud writes the changes as commands of gcloud for the project that owns the
// network.
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
	remove := command("delete", "--quiet")
	switch c.Action {
	case Remove:
		return remove
	case Replace:
		return remove + " && " + command("create", c.Rule.flags(createFields)...)
	case Update:
		var differing []string
		for _, d := range c.Differences {
			differing = append(differing, d.Field)
		}
		return command("update", c.Rule.flags(differing)...)
	}
	return command("create", c.Rule.flags(createFields)...)
}

// createFields are those that a rule of ours sets.
var createFields = []string{FieldNetwork, FieldDirection, FieldPriority, FieldAllowed, FieldSourceRanges, FieldTargetTags, FieldDescription}

// gcloudFlags names the fields as gcloud does. A list that is to be empty is
// written as a flag with an empty value.
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

// quote writes a word for a POSIX shell.
func quote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
