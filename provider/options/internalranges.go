package options

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// privateRanges are those of RFC 1918 and RFC 4193.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("fc00::/7"),
}

// ClientRanges returns the client ranges that may reach a Service with these options: SourceRanges,
// but for a Service without ranges of its own whose internal addresses alone are published, the
// internal ranges of its IP families. Its nodes may have external addresses, at which it would answer
// everybody else. If the internal ranges have none of its families, they are returned as they are:
// they allow nobody.
func (o Options) ClientRanges(svc *v1.Service) ([]netip.Prefix, error) {
	if !o.IsConfined(svc) {
		return SourceRanges(svc)
	}
	ofFamilies := slices.DeleteFunc(slices.Clone(o.InternalRanges), func(r netip.Prefix) bool {
		family := v1.IPv6Protocol
		if r.Addr().Is4() {
			family = v1.IPv4Protocol
		}
		return len(svc.Spec.IPFamilies) > 0 && !slices.Contains(svc.Spec.IPFamilies, family)
	})
	if len(ofFamilies) == 0 {
		return o.InternalRanges, nil
	}
	return ofFamilies, nil
}

// IsConfined reports whether only clients in the internal ranges may reach a Service.
func (o Options) IsConfined(svc *v1.Service) bool {
	written, _ := WrittenRanges(svc)
	return o.Addresses == Internal && len(written) == 0
}

// ParseRange parses a range of addresses. The error says what is expected.
func ParseRange(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
	if err != nil {
		return prefix, errors.New("a range in CIDR notation such as 203.0.113.0/24")
	}
	// ::ffff:10.0.0.0/104 is 10.0.0.0/8.
	if prefix = prefix.Masked(); prefix.Addr().Is4In6() {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix, nil
}
