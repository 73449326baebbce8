package firewall

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Difference is one field in which a rule is not as wanted. Values are written
// as the firewall's own tools write them.
type Difference struct {
	Field      string
	Have, Want []string
}

// String writes "targetTags [a] -> [a b]".
func (d Difference) String() string {
	return fmt.Sprintf("%s %v -> %v", d.Field, d.Have, d.Want)
}

// The fields a rule can differ in, named as in the Compute API.
const (
	FieldNetwork               = "network"
	FieldDirection             = "direction"
	FieldDescription           = "description"
	FieldPriority              = "priority"
	FieldDisabled              = "disabled"
	FieldAllowed               = "allowed"
	FieldDenied                = "denied"
	FieldSourceRanges          = "sourceRanges"
	FieldDestinationRanges     = "destinationRanges"
	FieldSourceTags            = "sourceTags"
	FieldTargetTags            = "targetTags"
	FieldSourceServiceAccounts = "sourceServiceAccounts"
	FieldTargetServiceAccounts = "targetServiceAccounts"
)

// fields says how each field is written for comparison.
var fields = []struct {
	name string
	of   func(Rule) []string
}{
	{FieldNetwork, func(r Rule) []string { return []string{r.Network} }},
	{FieldDirection, func(r Rule) []string { return []string{r.Direction} }},
	{FieldDescription, func(r Rule) []string { return []string{r.Description} }},
	{FieldPriority, func(r Rule) []string { return []string{strconv.FormatInt(r.Priority, 10)} }},
	{FieldDisabled, func(r Rule) []string { return []string{strconv.FormatBool(r.Disabled)} }},
	{FieldAllowed, func(r Rule) []string { return allowStrings(r.Allowed) }},
	{FieldDenied, func(r Rule) []string { return allowStrings(r.Denied) }},
	{FieldSourceRanges, func(r Rule) []string { return asSet(r.SourceRanges) }},
	{FieldDestinationRanges, func(r Rule) []string { return asSet(r.DestinationRanges) }},
	{FieldSourceTags, func(r Rule) []string { return asSet(r.SourceTags) }},
	{FieldTargetTags, func(r Rule) []string { return asSet(r.TargetTags) }},
	{FieldSourceServiceAccounts, func(r Rule) []string { return asSet(r.SourceServiceAccounts) }},
	{FieldTargetServiceAccounts, func(r Rule) []string { return asSet(r.TargetServiceAccounts) }},
}

// Diff compares two rules of one name field by field. Order, duplicates and
// how ports are split into ranges make no difference. Logging, which belongs
// to the administrator, is not compared.
func Diff(have, want Rule) []Difference {
	var differences []Difference
	for _, f := range fields {
		if h, w := f.of(have), f.of(want); !slices.Equal(h, w) {
			differences = append(differences, Difference{Field: f.name, Have: h, Want: w})
		}
	}
	return differences
}

func asSet(values []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(values)))
}

func allowStrings(allows []Allow) []string {
	var written []string
	for _, a := range Merge(allows) {
		written = append(written, a.String())
	}
	return written
}

// Summary says in a few words what the rule lets through.
func (r Rule) Summary() string {
	return fmt.Sprintf("%s from %s to tags %s", strings.Join(allowStrings(r.Allowed), ","),
		strings.Join(asSet(r.SourceRanges), ","), strings.Join(asSet(r.TargetTags), ","))
}
