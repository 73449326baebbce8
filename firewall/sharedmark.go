package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// sharedMark is the JSON in the description of a rule that Services share. It
// has everything that must be known about the rule after a restart: which of its
// ports may be removed, and which must stay.
type sharedMark struct {
	ClusterID string `json:"hostport-ccm.io/cluster-id"`
	// Key is what the Services have in common, see sharedKey.
	Key string `json:"hostport-ccm.io/shared-by"`
	// Ports are by serviceHash, in the form "tcp:80,tcp:8000-8080".
	Ports map[string]string `json:"hostport-ccm.io/open"`
}

// SharedMarkField occurs in the description of every shared rule, and in no
// other rule of ours.
const SharedMarkField = "hostport-ccm.io/shared-by"

// IsSharedIn reports whether Services of this cluster share the rule.
func (r Rule) IsSharedIn(clusterID string) bool {
	m, err := parseSharedMark(r.Description)
	return err == nil && m.ClusterID == clusterID
}

// IsSharedBy reports whether the rule is a shared one in which owner has ports.
func (r Rule) IsSharedBy(owner Owner) bool {
	m, err := parseSharedMark(r.Description)
	return err == nil && m.ClusterID == owner.ClusterID && m.Ports[serviceHash(owner)] != ""
}

// IsSharedOnlyBy reports whether the rule is a shared one in which nobody but owners has ports.
func (r Rule) IsSharedOnlyBy(owners []Owner) bool {
	m, err := parseSharedMark(r.Description)
	for _, owner := range owners {
		delete(m.Ports, serviceHash(owner))
	}
	return err == nil && len(m.Ports) == 0
}

// IsSharedLike reports whether the rule is a shared one that may hold the ports of a Service whose
// rules in the layout PerService are own.
func (r Rule) IsSharedLike(own []Rule) bool {
	m, err := parseSharedMark(r.Description)
	return err == nil && slices.ContainsFunc(own, func(o Rule) bool { return sharedKey(o) == m.Key })
}

// parseSharedMark accepts only the exact text that formatJSON returns.
func parseSharedMark(description string) (sharedMark, error) {
	var m sharedMark
	if err := parseJSON(description, &m); err != nil {
		return m, err
	}
	if m.ClusterID == "" || m.Key == "" || formatJSON(m) != description {
		return m, errors.New("not written as this program writes it")
	}
	for _, text := range m.Ports {
		if ports, err := parsePorts(text); err != nil || formatPorts(ports) != text {
			return m, fmt.Errorf("%q is not written as this program writes ports", text)
		}
	}
	return m, nil
}

// parsePorts parses what formatPorts returns.
func parsePorts(text string) ([]Port, error) {
	var ports []Port
	for _, item := range strings.Split(text, ",") {
		protocol, numbers, _ := strings.Cut(item, ":")
		from, to, isRange := strings.Cut(numbers, "-")
		if !isRange {
			to = from
		}
		first, errFirst := strconv.ParseUint(from, 10, 16)
		last, errLast := strconv.ParseUint(to, 10, 16)
		inRange := portsOf(Allow{Protocol: protocol, From: uint16(first), To: uint16(last)})
		if errors.Join(errFirst, errLast) != nil || len(inRange) == 0 || !inRange[0].valid() {
			return nil, fmt.Errorf("%q is no list of ports", text)
		}
		ports = append(ports, inRange...)
	}
	return ports, nil
}

func formatPorts(ports []Port) string { return strings.Join(allowStrings(allowsOf(ports...)), ",") }

// serviceHash identifies a Service in sharedMark.Ports. It is short, as a
// description has room for 2,048 characters, and long enough to distinguish the Services
// of one cluster.
func serviceHash(owner Owner) string { return shortHash(string(owner.UID))[:8] }

// sharedKey returns the same key for rules of Desired that differ in ports and owners only. Nodes
// come and go, so it has the way they are selected instead of the destination ranges.
func sharedKey(r Rule) string {
	family := IPv6
	if prefix, err := netip.ParsePrefix(r.SourceRanges[0]); err == nil && prefix.Addr().Is4() {
		family = IPv4
	}
	text := fmt.Sprintf("%q %q %q", r.Network, r.SourceRanges, r.TargetTags)
	if r.NodeSelection != "" {
		text += fmt.Sprintf(" %q", r.NodeSelection)
	}
	return fmt.Sprintf("%s-v%d", shortHash(text), family)
}

// sharedName returns the name of the n-th rule of a key, counted from 1. It is
// unique in the project.
func sharedName(clusterID, key string, n int) string {
	hash, family, _ := strings.Cut(key, "-")
	name := NamePrefix + "shared-" + shortHash(clusterID+"\x00"+hash) + "-" + family
	if n > 1 {
		name += fmt.Sprintf("-%d", n)
	}
	return name
}
