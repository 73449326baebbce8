package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Difference is a value of an object that is not as wanted.
type Difference struct {
	// Path names the value, as in "spec.ports[0].port".
	Path string
	// Have and Want are as decoded from JSON. A nil one means that the object has, or is to have, no
	// such value.
	Have, Want any
}

// String returns the path and both values, each at most 100 bytes long.
func (d Difference) String() string {
	return fmt.Sprintf("%s is %s instead of %s", d.Path, shortJSON(d.Have), shortJSON(d.Want))
}

func shortJSON(value any) string {
	if value == nil {
		return "missing"
	}
	return options.Cut(string(toJSON(value)), 100)
}

// lacking returns where have does not hold the values of want. It compares the JSON form, where a
// field that is not set is absent. Unlike equality.Semantic.DeepDerivative it compares numbers and
// lists: a container or a capability that somebody adds is a difference.
func lacking(path string, have, want any) []Difference {
	return comparison{}.compare(path, decoded(have), decoded(want))
}

// differing does the same, and also returns what have holds beyond want.
func differing(path string, have, want any) []Difference {
	return comparison{exact: true}.compare(path, decoded(have), decoded(want))
}

// comparison compares values that were decoded from JSON.
type comparison struct{ exact bool }

func (c comparison) compare(path string, have, want any) []Difference {
	different := []Difference{{path, have, want}}
	switch wanted := want.(type) {
	case nil:
		if existing, _ := have.(map[string]any); c.exact && have != nil && (existing == nil || len(existing) > 0) {
			return different
		}
		return nil
	case map[string]any:
		existing, ok := have.(map[string]any)
		if !ok {
			return different
		}
		return c.compareMaps(path, existing, wanted)
	case []any:
		existing, ok := have.([]any)
		if !ok || len(existing) != len(wanted) {
			return different
		}
		var all []Difference
		for i := range wanted {
			all = append(all, c.compare(fmt.Sprintf("%s[%d]", path, i), existing[i], wanted[i])...)
		}
		return all
	}
	if have == want {
		return nil
	}
	return different
}

func (c comparison) compareMaps(path string, have, want map[string]any) []Difference {
	var all []Difference
	for _, key := range slices.Sorted(maps.Keys(want)) {
		all = append(all, c.compare(path+field(key), have[key], want[key])...)
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if _, wanted := want[key]; c.exact && !wanted {
			all = append(all, Difference{path + field(key), have[key], nil})
		}
	}
	return all
}

// field returns how the value of a key follows the path of its map.
func field(key string) string {
	if strings.ContainsAny(key, "./") {
		return "[" + strconv.Quote(key) + "]"
	}
	return "." + key
}

func toJSON(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic("a Kubernetes object cannot be written as JSON: " + err.Error()) // It has no field of that kind.
	}
	return data
}

func decoded(value any) (result any) {
	_ = json.Unmarshal(toJSON(value), &result) // JSON that was just written is valid.
	return result
}
