package options

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
	v1 "k8s.io/api/core/v1"
)

// allClients is the range of all clients, by IP family.
var allClients = map[v1.IPFamily]netip.Prefix{
	v1.IPv4Protocol: netip.MustParsePrefix("0.0.0.0/0"),
	v1.IPv6Protocol: netip.MustParsePrefix("::/0"),
}

// SourceRanges returns the client ranges that may reach a Service: those of its spec, else those
// of the annotation service.beta.kubernetes.io/load-balancer-source-ranges, else all clients of
// the Service's IP families. Ranges that overlap or adjoin are merged: the result has the fewest
// ranges for the same clients, sorted. The error names the value that is not valid.
func SourceRanges(svc *v1.Service) ([]netip.Prefix, error) {
	written, where := WrittenRanges(svc)
	var ranges netipx.IPSetBuilder
	for _, w := range written {
		prefix, err := ParseRange(w)
		if err != nil {
			return nil, fmt.Errorf("%s: %s is not valid, expected %w", where, Quote(w), err)
		}
		ranges.AddPrefix(prefix)
	}
	if len(written) == 0 {
		// A range of a family that the Service does not have would cost a firewall rule.
		families := svc.Spec.IPFamilies
		if len(families) == 0 {
			families = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
		}
		for _, family := range families {
			ranges.AddPrefix(allClients[family])
		}
	}
	set, err := ranges.IPSet()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return set.Prefixes(), nil
}

// InSpec is where a Service's ranges usually are, and the only place that kube-proxy reads.
const InSpec = "spec.loadBalancerSourceRanges"

// WrittenRanges returns the ranges as the user wrote them, and where.
func WrittenRanges(svc *v1.Service) (written []string, where string) {
	annotation := strings.TrimSpace(svc.Annotations[v1.AnnotationLoadBalancerSourceRangesKey])
	if len(svc.Spec.LoadBalancerSourceRanges) == 0 && annotation != "" {
		return strings.Split(annotation, ","), "annotation " + v1.AnnotationLoadBalancerSourceRangesKey
	}
	return svc.Spec.LoadBalancerSourceRanges, InSpec
}
