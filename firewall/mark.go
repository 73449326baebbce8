package firewall

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// mark is the JSON in a rule's description by which ownership is proved.
type mark struct {
	ClusterID string `json:"hostport-ccm.io/cluster-id"`
	Service   string `json:"hostport-ccm.io/service"`
	UID       string `json:"hostport-ccm.io/service-uid"`
}

// FormatMark writes owner as the description of a rule.
func FormatMark(owner Owner) string {
	data, err := json.Marshal(mark{ClusterID: owner.ClusterID, Service: owner.Service.String(), UID: string(owner.UID)})
	if err != nil {
		panic(err) // A struct of strings always marshals.
	}
	return string(data)
}

// ParseMark reads the owner out of a rule's description. It takes only what
// FormatMark wrote, letter by letter: a rule that somebody has described
// otherwise is somebody's, and is not to be touched.
func ParseMark(description string) (Owner, error) {
	var m mark
	decoder := json.NewDecoder(bytes.NewReader([]byte(description)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
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

// validate refuses an owner that could be mistaken for another one.
func (o Owner) validate() error {
	for _, part := range []struct{ name, value string }{
		{"cluster id", o.ClusterID}, {"namespace", o.Service.Namespace}, {"name", o.Service.Name}, {"UID", string(o.UID)},
	} {
		if part.value == "" {
			return fmt.Errorf("the owner's %s is empty", part.name)
		}
		if strings.ContainsFunc(part.value, unsafeInMark) {
			return fmt.Errorf("the owner's %s %q holds a character outside letters, digits, '-', '_' and '.'", part.name, part.value)
		}
	}
	return nil
}

// unsafeInMark keeps to characters that JSON, search patterns and shells all
// leave alone. Kubernetes' names and UIDs use no others.
func unsafeInMark(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return r != '-' && r != '_' && r != '.'
}
