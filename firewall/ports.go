package firewall

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Allow is a protocol and one range of ports of it. From and To are both
// inside the range; both zero means every port, which is the only form for
// protocols without ports.
type Allow struct {
	// Protocol is an IP protocol as firewalls write it: tcp, udp, sctp, icmp,
	// all, or a number.
	Protocol string
	From, To uint16
}

// String writes "tcp:80", "tcp:80-90" or "icmp", as gcloud's --allow reads it.
func (a Allow) String() string {
	switch {
	case a.From == 0 && a.To == 0:
		return a.Protocol
	case a.From == a.To:
		return fmt.Sprintf("%s:%d", a.Protocol, a.From)
	}
	return fmt.Sprintf("%s:%d-%d", a.Protocol, a.From, a.To)
}

// Merge sorts allows and joins those that overlap or are neighbours, so that
// two lists that let the same traffic in become the same list.
func Merge(allows []Allow) []Allow {
	sorted := slices.Clone(allows)
	slices.SortFunc(sorted, func(a, b Allow) int {
		return cmp.Or(strings.Compare(a.Protocol, b.Protocol), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	var merged []Allow
	for _, next := range sorted {
		if last := len(merged) - 1; last >= 0 && touches(merged[last], next) {
			merged[last] = join(merged[last], next)
			continue
		}
		merged = append(merged, next)
	}
	return merged
}

// touches says whether b, which sorts after a, continues a or lies within it.
func touches(a, b Allow) bool {
	if a.Protocol != b.Protocol {
		return false
	}
	return everyPort(a) || int(b.From) <= int(a.To)+1
}

func join(a, b Allow) Allow {
	if everyPort(a) {
		return a
	}
	return Allow{Protocol: a.Protocol, From: a.From, To: max(a.To, b.To)}
}

func everyPort(a Allow) bool { return a.From == 0 && a.To == 0 }

// allowsOf translates a Service's ports.
func allowsOf(ports []Port) []Allow {
	allows := make([]Allow, 0, len(ports))
	for _, p := range ports {
		allows = append(allows, allow(p))
	}
	return Merge(allows)
}

func allow(p Port) Allow {
	return Allow{Protocol: strings.ToLower(string(p.Protocol)), From: p.Port, To: p.Port}
}

// portOf is the reverse of allow.
func portOf(protocol string, number uint16) Port {
	return Port{Protocol: v1.Protocol(strings.ToUpper(protocol)), Port: number}
}

func comparePorts(a, b Port) int {
	return cmp.Or(strings.Compare(string(a.Protocol), string(b.Protocol)), cmp.Compare(a.Port, b.Port))
}

// within says whether b covers a.
func (a Allow) within(b Allow) bool { return b.covers(a) }
