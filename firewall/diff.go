package firewall

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Difference is a field in which a rule differs from the wanted one. Values are
// in the notation of gcloud.
type Difference struct {
	Field      string
	Have, Want []string
}

// String returns "targetTags [a] -> [a b]", for long lists only what was added
// and removed.
func (d Difference) String() string {
	if len(d.Have)+len(d.Want) > 2*maxListed {
		return fmt.Sprintf("%s +[%s] -[%s]", d.Field, abbreviate(without(d.Want, d.Have)), abbreviate(without(d.Have, d.Want)))
	}
	return fmt.Sprintf("%s %v -> %v", d.Field, d.Have, d.Want)
}

// maxListed is how many values of a list messages show.
const maxListed = 4

// abbreviate returns the values, or some and the number of the others.
func abbreviate(values []string) string {
	if len(values) <= maxListed {
		return strings.Join(values, ",")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(values[:maxListed], ","), len(values)-maxListed)
}

func without(values, others []string) []string {
	removed := map[string]bool{}
	for _, v := range others {
		removed[v] = true
	}
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return removed[v] })
}

// immutable reports whether the Compute API refuses to update the field.
func (d Difference) immutable() bool {
	return d.Field == FieldNetwork || d.Field == FieldDirection || d.Field == FieldDenied
}

// The fields that are compared, by their names in the Compute API.
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

// fields has a function for each field that returns its comparable form.
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

// Diff returns the fields in which two rules of one name differ. Order,
// duplicates and the division of ports into ranges do not matter. Logging is not
// compared: it is configured by administrators.
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
