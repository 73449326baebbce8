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

// field is a field of a Rule.
type field struct {
	name string
	// same reports that the field is written in the same way in two rules.
	same func(a, b Rule) bool
	// of returns its comparable form.
	of func(Rule) []string
}

func single(name string, of func(Rule) string) field {
	return field{name, func(a, b Rule) bool { return of(a) == of(b) }, func(r Rule) []string { return []string{of(r)} }}
}

func set(name string, of func(Rule) []string) field {
	return field{name, func(a, b Rule) bool { return slices.Equal(of(a), of(b)) }, func(r Rule) []string { return asSet(of(r)) }}
}

func allows(name string, of func(Rule) []Allow) field {
	return field{name, func(a, b Rule) bool { return slices.Equal(of(a), of(b)) }, func(r Rule) []string { return allowStrings(of(r)) }}
}

var fields = []field{
	single(FieldNetwork, func(r Rule) string { return r.Network }),
	single(FieldDirection, func(r Rule) string { return r.Direction }),
	single(FieldDescription, func(r Rule) string { return r.Description }),
	single(FieldPriority, func(r Rule) string { return strconv.FormatInt(r.Priority, 10) }),
	single(FieldDisabled, func(r Rule) string { return strconv.FormatBool(r.Disabled) }),
	allows(FieldAllowed, func(r Rule) []Allow { return r.Allowed }),
	allows(FieldDenied, func(r Rule) []Allow { return r.Denied }),
	set(FieldSourceRanges, func(r Rule) []string { return r.SourceRanges }),
	set(FieldDestinationRanges, func(r Rule) []string { return r.DestinationRanges }),
	set(FieldSourceTags, func(r Rule) []string { return r.SourceTags }),
	set(FieldTargetTags, func(r Rule) []string { return r.TargetTags }),
	set(FieldSourceServiceAccounts, func(r Rule) []string { return r.SourceServiceAccounts }),
	set(FieldTargetServiceAccounts, func(r Rule) []string { return r.TargetServiceAccounts }),
}

// Diff returns the fields in which two rules of one name differ. Order,
// duplicates and the division of ports into ranges do not matter. Logging is not
// compared: it is configured by administrators.
func Diff(have, want Rule) []Difference {
	var differences []Difference
	for _, f := range fields {
		if f.same(have, want) {
			continue
		}
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
