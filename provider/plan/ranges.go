package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
)

// everybody is one default range per IP family.
var everybody = map[v1.IPFamily]netip.Prefix{
	v1.IPv4Protocol: netip.MustParsePrefix("0.0.0.0/0"),
	v1.IPv6Protocol: netip.MustParsePrefix("::/0"),
}

// SourceRanges returns the client ranges that a Service lets in: those of its
// spec, else those of the old annotation, else everybody of its IP families.
// Sorted, each once.
func SourceRanges(svc *v1.Service) ([]netip.Prefix, error) {
	written, where := writtenRanges(svc)
	if len(written) == 0 {
		return defaultRanges(svc), nil
	}
	var ranges []netip.Prefix
	for _, w := range written {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(w))
		if err != nil {
			return nil, fmt.Errorf("%s: %q is not valid, expected a range in CIDR notation such as 203.0.113.0/24", where, w)
		}
		ranges = append(ranges, canonical(prefix))
	}
	return sortRanges(ranges), nil
}

// inSpec is where a Service's ranges usually are, and all that kube-proxy reads.
const inSpec = "spec.loadBalancerSourceRanges"

// writtenRanges returns the ranges as the user wrote them, and where.
func writtenRanges(svc *v1.Service) (written []string, where string) {
	old := strings.TrimSpace(svc.Annotations[v1.AnnotationLoadBalancerSourceRangesKey])
	if len(svc.Spec.LoadBalancerSourceRanges) == 0 && old != "" {
		return strings.Split(old, ","), "annotation " + v1.AnnotationLoadBalancerSourceRangesKey
	}
	return svc.Spec.LoadBalancerSourceRanges, inSpec
}

// shutOut returns the IP families of a Service of which its ranges let nobody in,
// as they are all of the other. kube-proxy, which sorts them by family and takes
// none for no restriction, would let in everybody.
func shutOut(svc *v1.Service) []v1.IPFamily {
	ranges, _ := SourceRanges(svc)
	var out []v1.IPFamily
	for _, family := range svc.Spec.IPFamilies {
		if !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Addr().Is4() == (family == v1.IPv4Protocol) }) {
			out = append(out, family)
		}
	}
	return out
}

// canonical writes an IPv4 range as such that is written in IPv6 form:
// ::ffff:10.0.0.0/104 is 10.0.0.0/8.
func canonical(prefix netip.Prefix) netip.Prefix {
	prefix = prefix.Masked()
	if addr := prefix.Addr(); addr.Is4In6() {
		return netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	return prefix
}

// defaultRanges leaves out a family that the Service does not have: it would
// cost a firewall rule and mean nothing.
func defaultRanges(svc *v1.Service) []netip.Prefix {
	families := svc.Spec.IPFamilies
	if len(families) == 0 {
		families = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	}
	var ranges []netip.Prefix
	for _, family := range families {
		ranges = append(ranges, everybody[family])
	}
	return sortRanges(ranges)
}

func sortRanges(ranges []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ranges, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	return slices.Compact(ranges)
}
