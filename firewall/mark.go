package firewall

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// mark is the JSON in a rule's description that identifies its owner.
type mark struct {
	ClusterID string `json:"hostport-ccm.io/cluster-id"`
	Service   string `json:"hostport-ccm.io/service"`
	UID       string `json:"hostport-ccm.io/service-uid"`
}

// FormatMark returns the description of owner's rules.
func FormatMark(owner Owner) string {
	return formatJSON(mark{ClusterID: owner.ClusterID, Service: owner.Service.String(), UID: string(owner.UID)})
}

func formatJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // Marks consist of strings, which always marshal.
	}
	return string(data)
}

// ParseMark returns the owner that a rule's description names. It accepts only
// the exact text that FormatMark returns: a rule with any other description
// belongs to somebody else and must not be changed.
func ParseMark(description string) (Owner, error) {
	var m mark
	if err := parseJSON(description, &m); err != nil {
		return Owner{}, fmt.Errorf("not an ownership mark: %w", err)
	}
	namespace, name, _ := strings.Cut(m.Service, "/")
	owner := Owner{
		ClusterID: m.ClusterID,
		Service:   types.NamespacedName{Namespace: namespace, Name: name},
		UID:       types.UID(m.UID),
	}
	if err := owner.validate(); err != nil {
		return Owner{}, fmt.Errorf("not an ownership mark: %w", err)
	}
	if FormatMark(owner) != description {
		return Owner{}, fmt.Errorf("not an ownership mark: %q is not written as this program writes it", description)
	}
	return owner, nil
}

func parseJSON(text string, v any) error {
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.DisallowUnknownFields()
	return decoder.Decode(v)
}

// validate rejects an owner that could be confused with another one. It accepts
// only characters that need no quoting in JSON, in filters of the Compute API
// and in shells. Names and UIDs of Kubernetes have no others.
func (o Owner) validate() error {
	const safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	for _, part := range []struct{ name, value string }{
		{"cluster id", o.ClusterID}, {"namespace", o.Service.Namespace}, {"name", o.Service.Name}, {"UID", string(o.UID)},
	} {
		if part.value == "" {
			return fmt.Errorf("the owner's %s is empty", part.name)
		}
		if strings.ContainsFunc(part.value, func(r rune) bool { return !strings.ContainsRune(safe, r) }) {
			return fmt.Errorf("the owner's %s %q holds a character outside letters, digits, '-', '_' and '.'", part.name, part.value)
		}
	}
	return nil
}

// BelongsTo reports whether the rule has exactly owner's mark.
func (r Rule) BelongsTo(owner Owner) bool {
	marked, err := ParseMark(r.Description)
	return err == nil && marked == owner
}

// OwnersAmong returns the owners within one cluster whose mark is on any of the
// rules, each once, sorted by Service and UID. It ignores all other rules.
func OwnersAmong(rules []Rule, clusterID string) []Owner {
	var owners []Owner
	for _, rule := range rules {
		if owner, err := ParseMark(rule.Description); err == nil && owner.ClusterID == clusterID {
			owners = append(owners, owner)
		}
	}
	slices.SortFunc(owners, CompareOwners)
	return slices.Compact(owners)
}

// CompareOwners orders owners of one cluster by Service and UID.
func CompareOwners(a, b Owner) int {
	return cmp.Or(
		cmp.Compare(a.Service.Namespace, b.Service.Namespace),
		cmp.Compare(a.Service.Name, b.Service.Name),
		cmp.Compare(a.UID, b.UID),
	)
}
