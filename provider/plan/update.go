package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// AnnotationSpecHash holds a hash of the spec as written, before the API server filled in its
// defaults. Together with a comparison of the fields that are set here, it shows whether anything
// has to be written.
const AnnotationSpecHash = options.Prefix + "spec-hash"

// UpdateDaemonSet returns what to write so that have becomes like want, and whether it differs. A
// field that want leaves empty may have any value, as the API server fills in defaults.
func UpdateDaemonSet(have, want *appsv1.DaemonSet) (*appsv1.DaemonSet, bool) {
	want = resetIfRolledOut(have, want)
	if contains(have.Labels, want.Labels) && contains(have.Annotations, want.Annotations) &&
		jsonCovers(have.Spec, want.Spec) {
		return nil, false
	}
	updated := have.DeepCopy()
	updated.Labels = merge(have.Labels, want.Labels)
	updated.Annotations = merge(have.Annotations, want.Annotations)
	updated.Spec = *want.Spec.DeepCopy()
	return updated, true
}

// UpdateConfigMap does the same for a ConfigMap.
func UpdateConfigMap(have, want *v1.ConfigMap) (*v1.ConfigMap, bool) {
	if contains(have.Labels, want.Labels) && maps.Equal(have.Data, want.Data) && len(have.BinaryData) == 0 {
		return nil, false
	}
	updated := have.DeepCopy()
	updated.Labels = merge(have.Labels, want.Labels)
	updated.Data, updated.BinaryData = maps.Clone(want.Data), nil
	return updated, true
}

// addSpecHash writes the hash of a DaemonSet's spec into its annotations.
func addSpecHash(ds *appsv1.DaemonSet) {
	sum := sha256.Sum256(toJSON(ds.Spec))
	ds.Annotations = map[string]string{AnnotationSpecHash: hex.EncodeToString(sum[:8])}
}

func toJSON(spec any) []byte {
	data, err := json.Marshal(spec)
	if err != nil {
		panic("a DaemonSet's spec cannot be written as JSON: " + err.Error()) // It has no field of that kind.
	}
	return data
}

// covers reports whether have holds all values of want. It compares the JSON form, where a field
// that is not set is absent. Unlike equality.Semantic.DeepDerivative it compares numbers and
// lists: a container or a capability that somebody adds is a difference.
func covers(have, want any) bool {
	switch want := want.(type) {
	case nil:
		return true
	case map[string]any:
		have, ok := have.(map[string]any)
		for key, value := range want {
			ok = ok && covers(have[key], value)
		}
		return ok
	case []any:
		have, ok := have.([]any)
		if !ok || len(have) != len(want) {
			return false
		}
		for i := range want {
			ok = ok && covers(have[i], want[i])
		}
		return ok
	}
	return have == want
}

func jsonCovers(have, want any) bool {
	var h, w any
	_ = json.Unmarshal(toJSON(have), &h) // JSON that was just written is valid.
	_ = json.Unmarshal(toJSON(want), &w)
	return covers(h, w)
}

func contains(have, want map[string]string) bool {
	for key, value := range want {
		if have[key] != value {
			return false
		}
	}
	return true
}

func merge(have, want map[string]string) map[string]string {
	merged := maps.Clone(have)
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, want)
	return merged
}
