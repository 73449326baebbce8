package gce

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/api/compute/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// patchFor returns a patch of the fields in which the rule differs.
func patchFor(change firewall.Change) *compute.Firewall {
	full := toAPI(change.Rule)
	patch := &compute.Firewall{}
	for _, d := range change.Differences {
		copyField(patch, full, d.Field)
	}
	return patch
}

// copyField copies one field. Priority and Disabled are sent even if they are zero, and a field
// that our rules do not have is cleared, as are destination ranges that a rule does not have. Our
// rules never have the other fields empty.
func copyField(to, from *compute.Firewall, field string) {
	switch field {
	case firewall.FieldDescription:
		to.Description = from.Description
	case firewall.FieldPriority:
		to.Priority = from.Priority
		to.ForceSendFields = append(to.ForceSendFields, "Priority")
	case firewall.FieldDisabled:
		to.Disabled = from.Disabled
		to.ForceSendFields = append(to.ForceSendFields, "Disabled")
	case firewall.FieldAllowed:
		to.Allowed = from.Allowed
	case firewall.FieldSourceRanges:
		to.SourceRanges = from.SourceRanges
	case firewall.FieldTargetTags:
		to.TargetTags = from.TargetTags
	case firewall.FieldDestinationRanges:
		if to.DestinationRanges = from.DestinationRanges; len(to.DestinationRanges) == 0 {
			to.NullFields = append(to.NullFields, "DestinationRanges")
		}
	default: // A field that our rules do not have.
		to.NullFields = append(to.NullFields, strings.ToUpper(field[:1])+field[1:])
	}
}

// toAPI converts a rule of ours. Priority and Disabled are sent even if they are
// zero: the generated client omits zeros, and GCE then uses its defaults. The
// network is a partial URL, which GCE resolves in the project of the request.
func toAPI(rule firewall.Rule) *compute.Firewall {
	return &compute.Firewall{
		Name:              rule.Name,
		Description:       rule.Description,
		Network:           "global/networks/" + rule.Network,
		Direction:         rule.Direction,
		Priority:          rule.Priority,
		Disabled:          rule.Disabled,
		Allowed:           allowedOf(rule.Allowed),
		SourceRanges:      rule.SourceRanges,
		DestinationRanges: rule.DestinationRanges,
		TargetTags:        rule.TargetTags,
		ForceSendFields:   []string{"Priority", "Disabled"},
	}
}

// allowedOf groups ports by protocol. An entry has one protocol and at most
// firewall.MaxPortRanges ports.
func allowedOf(allows []firewall.Allow) []*compute.FirewallAllowed {
	var entries []*compute.FirewallAllowed
	for _, allow := range allows {
		last := len(entries) - 1
		if last < 0 || entries[last].IPProtocol != allow.Protocol || len(entries[last].Ports) == firewall.MaxPortRanges {
			entries = append(entries, &compute.FirewallAllowed{IPProtocol: allow.Protocol})
			last++
		}
		if _, ports, hasPorts := strings.Cut(allow.String(), ":"); hasPorts {
			entries[last].Ports = append(entries[last].Ports, ports)
		}
	}
	return entries
}

// fromAPI converts any rule.
func fromAPI(in *compute.Firewall) firewall.Rule {
	rule := firewall.Rule{
		Name:                  in.Name,
		Description:           in.Description,
		Network:               path.Base(in.Network),
		Direction:             in.Direction,
		Priority:              in.Priority,
		Disabled:              in.Disabled,
		SourceRanges:          canonical(in.SourceRanges),
		DestinationRanges:     canonical(in.DestinationRanges),
		TargetTags:            in.TargetTags,
		SourceTags:            in.SourceTags,
		SourceServiceAccounts: in.SourceServiceAccounts,
		TargetServiceAccounts: in.TargetServiceAccounts,
	}
	for _, entry := range in.Allowed {
		rule.Allowed = append(rule.Allowed, parseAllows(entry.IPProtocol, entry.Ports)...)
	}
	for _, entry := range in.Denied {
		rule.Denied = append(rule.Denied, parseAllows(entry.IPProtocol, entry.Ports)...)
	}
	rule.Allowed, rule.Denied = firewall.Merge(rule.Allowed), firewall.Merge(rule.Denied)
	return rule
}

// protocolNames are those of the protocols that GCE accepts by number too.
var protocolNames = map[string]string{"1": "icmp", "4": "ipip", "6": "tcp", "17": "udp", "50": "esp", "51": "ah", "132": "sctp"}

// parseAllows converts one entry.
func parseAllows(protocol string, ports []string) []firewall.Allow {
	protocol = strings.ToLower(protocol)
	if name, known := protocolNames[protocol]; known {
		protocol = name
	}
	if len(ports) == 0 {
		return []firewall.Allow{{Protocol: protocol}}
	}
	var allows []firewall.Allow
	for _, port := range ports {
		from, to, isRange := strings.Cut(port, "-")
		if !isRange {
			to = from
		}
		allows = append(allows, firewall.Allow{Protocol: protocol, From: portNumber(from), To: portNumber(to)})
	}
	return allows
}

// portNumber parses a number that GCE has validated.
func portNumber(s string) uint16 {
	n, _ := strconv.ParseUint(s, 10, 16)
	return uint16(n)
}

// canonical returns ranges in the form that firewall.Desired uses.
func canonical(ranges []string) []string {
	var written []string
	for _, r := range ranges {
		if prefix, err := netip.ParsePrefix(r); err == nil {
			r = prefix.Masked().String()
		} else if addr, err := netip.ParseAddr(r); err == nil {
			r = netip.PrefixFrom(addr, addr.BitLen()).String()
		}
		written = append(written, r)
	}
	return slices.Compact(slices.Sorted(slices.Values(written)))
}
