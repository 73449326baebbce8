package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// AnnotationSpecHash holds a hash of the spec as written, before the API server filled in its
// defaults. Together with a comparison of the fields that are set here, it shows whether anything
// has to be written.
const AnnotationSpecHash = options.Prefix + "spec-hash"

// AnnotationConfigChanged is set on running proxies when their config has changed.
const AnnotationConfigChanged = options.Prefix + "config-changed"

// UpdateDaemonSet returns what to write so that have becomes like want, and the differences; without
// any, nothing has to be written. A field that want leaves empty may have any value, as the API server
// fills in defaults.
func UpdateDaemonSet(have, want *appsv1.DaemonSet) (*appsv1.DaemonSet, []Difference) {
	want = resetIfRolledOut(have, want)
	differences := slices.Concat(
		lacking("metadata.labels", have.Labels, want.Labels),
		lacking("metadata.annotations", have.Annotations, want.Annotations),
		lacking("spec", have.Spec, want.Spec),
	)
	updated := have.DeepCopy()
	updated.Labels = merge(have.Labels, want.Labels)
	updated.Annotations = merge(have.Annotations, want.Annotations)
	updated.Spec = *want.Spec.DeepCopy()
	return updated, differences
}

// UpdateConfigMap does the same for a ConfigMap, which has no defaults.
func UpdateConfigMap(have, want *v1.ConfigMap) (*v1.ConfigMap, []Difference) {
	updated := have.DeepCopy()
	updated.Labels = merge(have.Labels, want.Labels)
	updated.Data, updated.BinaryData = maps.Clone(want.Data), nil
	return updated, slices.Concat(
		lacking("metadata.labels", have.Labels, want.Labels),
		differing("data", have.Data, updated.Data),
		differing("binaryData", have.BinaryData, updated.BinaryData),
	)
}

// addSpecHash writes the hash of a DaemonSet's spec into its annotations.
func addSpecHash(ds *appsv1.DaemonSet) {
	sum := sha256.Sum256(toJSON(ds.Spec))
	ds.Annotations = map[string]string{AnnotationSpecHash: hex.EncodeToString(sum[:8])}
}

func merge(have, want map[string]string) map[string]string {
	merged := maps.Clone(have)
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, want)
	return merged
}
