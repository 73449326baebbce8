package plan

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FuzzSourceRanges compares the annotation with the field of the spec that has the same ranges as a
// list.
func FuzzSourceRanges(f *testing.F) {
	for _, seed := range []string{"", " ", ",", "0.0.0.0/0", "::/0, 203.0.113.7/24", "203.0.113.0/24,203.0.113.0/24", "::ffff:10.0.0.0/104", "fe80::1%eth0/64", "10.0.0.1", "10.0.0.0/33"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, written string) {
		svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: written}}}
		ranges, err := SourceRanges(svc)
		if err != nil {
			if !strings.Contains(err.Error(), v1.AnnotationLoadBalancerSourceRangesKey) {
				t.Errorf("the error does not name the annotation: %v", err)
			}
			return
		}
		var again []string
		for _, r := range ranges {
			if !r.IsValid() || r != r.Masked() || r.Addr().Zone() != "" || r.Addr().Is4In6() {
				t.Errorf("%q: firewalls do not accept %v", written, r)
			}
			again = append(again, r.String())
		}
		if len(ranges) == 0 {
			t.Errorf("%q: neither ranges nor an error", written)
		}
		svc.Annotations = nil
		svc.Spec.LoadBalancerSourceRanges = again
		if reread, err := SourceRanges(svc); err != nil || !slices.Equal(ranges, reread) {
			t.Errorf("%q: got %v from the annotation and %v, %v from the spec", written, ranges, reread, err)
		}
	})
}
