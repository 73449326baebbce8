package config

import (
	"net/netip"
	"slices"
	"time"
)

// Family is an IP family, written as in a Service's ipFamilies.
type Family string

// The two IP families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// Families are both IP families, in the order in which they are processed.
var Families = []Family{IPv4, IPv6}

// FamilyOf returns the family of a valid address.
func FamilyOf(addr netip.Addr) Family {
	if addr.Is4() {
		return IPv4
	}
	return IPv6
}

// ClusterIP returns the cluster IP of the family and whether there is one. The
// Config must be valid, as Parse returns it.
func (c Config) ClusterIP(family Family) (netip.Addr, bool) {
	for _, s := range c.ClusterIPs {
		if addr, err := netip.ParseAddr(s); err == nil && FamilyOf(addr) == family {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// Without returns the config without the cluster IP of a family.
func (c Config) Without(family Family) Config {
	c.ClusterIPs = slices.DeleteFunc(slices.Clone(c.ClusterIPs), func(s string) bool {
		addr, err := netip.ParseAddr(s)
		return err == nil && FamilyOf(addr) == family
	})
	return c
}

// Sources returns the source ranges of the family in their order, without host
// bits and duplicates. The Config must be valid, as Parse returns it.
func (c Config) Sources(family Family) []netip.Prefix {
	var out []netip.Prefix
	seen := map[netip.Prefix]bool{}
	for _, s := range c.SourceRanges {
		prefix, err := netip.ParsePrefix(s)
		prefix = prefix.Masked()
		if err == nil && FamilyOf(prefix.Addr()) == family && !seen[prefix] {
			seen[prefix] = true
			out = append(out, prefix)
		}
	}
	return out
}

// Drain returns how long the proxy serves after SIGTERM.
func (c Config) Drain() time.Duration { return time.Duration(c.DrainSeconds) * time.Second }

// Has reports whether the port is forwarded.
func (c Config) Has(protocol string, port uint16) bool {
	return slices.Contains(c.Ports, Port{Protocol: protocol, Port: port})
}
