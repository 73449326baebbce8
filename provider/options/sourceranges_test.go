package options

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
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

func TestSourceRangesComeFromTheSpecOrTheAnnotation(t *testing.T) {
	old := map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: "192.0.2.0/24, 198.51.100.0/24"}
	for name, c := range map[string]struct {
		change func(*v1.Service)
		want   []string
	}{
		"all clients of the Service's IP families by default": {func(svc *v1.Service) { svc.Spec.IPFamilies = []v1.IPFamily{"IPv6", "IPv4"} }, []string{"0.0.0.0/0", "::/0"}},
		"all clients if the families are unknown":             {func(svc *v1.Service) { svc.Spec.IPFamilies = nil }, []string{"0.0.0.0/0", "::/0"}},
		"the annotation": {func(svc *v1.Service) { svc.Annotations = old }, []string{"192.0.2.0/24", "198.51.100.0/24"}},
		"the spec takes precedence over the annotation": {func(svc *v1.Service) {
			svc.Annotations, svc.Spec.LoadBalancerSourceRanges = old, []string{"203.0.113.0/24"}
		}, []string{"203.0.113.0/24"}},
		"ranges that are equal, overlap or adjoin are merged": {func(svc *v1.Service) {
			svc.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24", "192.0.2.128/25", "192.0.2.7/32", "203.0.113.0/24", "192.0.2.0/25", "2001:db8:8000::/33", "2001:db8::/33"}
		}, []string{"192.0.2.0/24", "203.0.113.0/24", "2001:db8::/32"}},
		"an IPv4 range in IPv6 form counts as IPv4": {func(svc *v1.Service) {
			svc.Spec.LoadBalancerSourceRanges = []string{"::ffff:203.0.113.7/120", "::ffff:0:0/90"}
		}, []string{"203.0.113.0/24", "::ffc0:0:0/90"}},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &v1.Service{Spec: v1.ServiceSpec{IPFamilies: []v1.IPFamily{v1.IPv4Protocol}}}
			c.change(svc)
			ranges, err := SourceRanges(svc)
			var got []string
			for _, r := range ranges {
				got = append(got, r.String())
			}
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("error %v, ranges differ (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestMergedRangesAreTheFewestWithTheSameClients(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var written []netip.Prefix
		svc := &v1.Service{}
		for range rapid.IntRange(1, 20).Draw(t, "number of ranges") {
			last := byte(rapid.IntRange(0, 63).Draw(t, "last byte"))
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), rapid.IntRange(26, 32).Draw(t, "bits")).Masked()
			written = append(written, prefix)
			svc.Spec.LoadBalancerSourceRanges = append(svc.Spec.LoadBalancerSourceRanges, prefix.String())
		}
		merged, err := SourceRanges(svc)
		if err != nil {
			t.Fatal(err)
		}
		for last := range 256 {
			client := netip.AddrFrom4([4]byte{192, 0, 2, byte(last)})
			contains := func(r netip.Prefix) bool { return r.Contains(client) }
			if slices.ContainsFunc(written, contains) != slices.ContainsFunc(merged, contains) {
				t.Errorf("%v: written %v, merged %v", client, written, merged)
			}
		}
		for i, r := range merged[1:] {
			before := merged[i]
			if parent := netip.PrefixFrom(r.Addr(), r.Bits()-1).Masked(); before.Overlaps(r) || !before.Addr().Less(r.Addr()) || before == netip.PrefixFrom(parent.Addr(), r.Bits()) {
				t.Errorf("%v and %v are not sorted and merged", before, r)
			}
		}
	})
}
