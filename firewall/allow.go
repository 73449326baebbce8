package firewall

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Allow is a protocol and a range of its ports, From and To included. Both zero
// means every port; protocols without ports have no other form.
type Allow struct {
	// Protocol is an IP protocol as firewalls name it: tcp, udp, sctp, icmp, all,
	// or a number.
	Protocol string
	From, To uint16
}

// String writes "tcp:80", "tcp:80-90" or "icmp", as gcloud's --allow reads it.
func (a Allow) String() string {
	switch {
	case a.everyPort():
		return a.Protocol
	case a.From == a.To:
		return fmt.Sprintf("%s:%d", a.Protocol, a.From)
	}
	return fmt.Sprintf("%s:%d-%d", a.Protocol, a.From, a.To)
}

// Merge sorts allows and joins ranges that overlap or are adjacent: lists that
// allow the same traffic become equal.
func Merge(allows []Allow) []Allow {
	sorted := slices.SortedFunc(slices.Values(allows), func(a, b Allow) int {
		return cmp.Or(strings.Compare(a.Protocol, b.Protocol), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	var merged []Allow
	for _, next := range sorted {
		if len(merged) == 0 || merged[len(merged)-1].Protocol != next.Protocol {
			merged = append(merged, next)
			continue
		}
		switch last := &merged[len(merged)-1]; {
		case last.everyPort(): // It sorts first.
		case int(next.From) <= int(last.To)+1:
			last.To = max(last.To, next.To)
		default:
			merged = append(merged, next)
		}
	}
	return merged
}

// subtract returns what allows have and removed have not.
func subtract(allows, removed []Allow) []Allow {
	for _, r := range removed {
		var rest []Allow
		for _, a := range allows {
			rest = append(rest, a.subtract(r)...)
		}
		allows = rest
	}
	return allows
}

func (a Allow) subtract(b Allow) []Allow {
	switch {
	case b.covers(a):
		return nil
	case a.Protocol != b.Protocol || !a.overlaps(b):
		return []Allow{a}
	}
	if a.everyPort() {
		a.From, a.To = 1, 65535
	}
	var rest []Allow
	if a.From < b.From {
		rest = append(rest, Allow{a.Protocol, a.From, b.From - 1})
	}
	if b.To < a.To {
		rest = append(rest, Allow{a.Protocol, b.To + 1, a.To})
	}
	return rest
}

func (a Allow) covers(b Allow) bool {
	if a.Protocol == "all" {
		return true
	}
	return a.Protocol == b.Protocol && (a.everyPort() || !b.everyPort() && a.From <= b.From && b.To <= a.To)
}

func (a Allow) overlaps(b Allow) bool {
	if a.Protocol == "all" || b.Protocol == "all" {
		return true
	}
	return a.Protocol == b.Protocol && (a.everyPort() || b.everyPort() || a.From <= b.To && b.From <= a.To)
}

func (a Allow) everyPort() bool { return a.From == 0 && a.To == 0 }

// allowsOf converts the ports of Services.
func allowsOf(ports ...Port) []Allow {
	var allows []Allow
	for _, p := range ports {
		allows = append(allows, Allow{Protocol: strings.ToLower(string(p.Protocol)), From: p.Port, To: p.Port})
	}
	return Merge(allows)
}

// portsOf converts back what allowsOf returned.
func portsOf(a Allow) []Port {
	var ports []Port
	for n := int(a.From); n <= int(a.To); n++ {
		ports = append(ports, Port{Protocol: v1.Protocol(strings.ToUpper(a.Protocol)), Port: uint16(n)})
	}
	return ports
}

func comparePorts(a, b Port) int {
	return cmp.Or(strings.Compare(string(a.Protocol), string(b.Protocol)), cmp.Compare(a.Port, b.Port))
}
