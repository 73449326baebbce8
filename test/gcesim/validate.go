package gcesim

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	namePattern = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
	unknownName = regexp.MustCompile(`unknown field "(.*)"`)
)

const (
	maxDescription  = 2048
	maxPriority     = 65535
	defaultPriority = 1000
)

// decodeFirewall decodes a request's body. Unknown fields are errors.
func decodeFirewall(body []byte) (firewallInput, *apiError) {
	var input firewallInput
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&input)
	if err == nil {
		return input, nil
	}
	if unknown := unknownName.FindStringSubmatch(err.Error()); unknown != nil {
		return input, badRequest("Invalid JSON payload received. Unknown name \"%s\" at 'resource': Cannot find field.", unknown[1])
	}
	return input, badRequest("Invalid JSON payload received. %v", err)
}

// newFirewall returns a rule with GCE's defaults, validated as GCE does.
func (s *Sim) newFirewall(project string, in firewallInput) (Firewall, *apiError) {
	rule := Firewall{
		Kind: "compute#firewall", Name: in.Name, Description: in.Description, Priority: defaultPriority,
		SourceRanges: in.SourceRanges, DestinationRanges: in.DestinationRanges, SourceTags: in.SourceTags, TargetTags: in.TargetTags,
		SourceServiceAccounts: in.SourceServiceAccounts, TargetServiceAccounts: in.TargetServiceAccounts,
		Allowed: in.Allowed, Denied: in.Denied, Direction: orElse(in.Direction, "INGRESS"), Disabled: in.Disabled,
		LogConfig: in.LogConfig, SelfLink: selfLinkBase + firewallPath(project, in.Name),
	}
	if rule.LogConfig == nil {
		rule.LogConfig = &LogConfig{}
	}
	if in.Priority != nil {
		rule.Priority = *in.Priority
	}
	everywhere := len(rule.SourceRanges)+len(rule.SourceTags)+len(rule.SourceServiceAccounts) == 0
	if rule.Direction == "INGRESS" && everywhere {
		rule.SourceRanges = []string{"0.0.0.0/0"}
	}
	if rule.Direction == "EGRESS" && len(rule.DestinationRanges) == 0 {
		rule.DestinationRanges = []string{"0.0.0.0/0"}
	}
	var failure *apiError
	if rule.Network, failure = s.networkLink(project, orElse(in.Network, "global/networks/default")); failure != nil {
		return rule, failure
	}
	for _, check := range []func(Firewall) *apiError{checkName, checkScalars, checkAction, checkRanges, checkTargets} {
		if failure := check(rule); failure != nil {
			return rule, failure
		}
	}
	return rule, nil
}

// networkLink resolves a full or partial URL of a network in project.
func (s *Sim) networkLink(project, network string) (string, *apiError) {
	link := "projects/" + project + "/global/networks/" + path.Base(network)
	_, fromProjects, full := strings.Cut("/"+network, "/projects/")
	partial := network == "global/networks/"+path.Base(network)
	if !partial && (!full || s.withProjectID("projects/"+fromProjects) != link) {
		return "", invalidField("resource.network", network, "The URL is malformed or names another project.")
	}
	if !slices.Contains(s.networks(), path.Base(network)) {
		return "", invalidField("resource.network", selfLinkBase+link, "The referenced network resource cannot be found.")
	}
	return selfLinkBase + link, nil
}

func checkName(rule Firewall) *apiError {
	if !namePattern.MatchString(rule.Name) {
		return invalidField("resource.name", rule.Name, "Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'")
	}
	return nil
}

func checkScalars(rule Firewall) *apiError {
	switch {
	case rule.Direction != "INGRESS" && rule.Direction != "EGRESS":
		return invalidField("resource.direction", rule.Direction, "Must be INGRESS or EGRESS.")
	case rule.Priority < 0 || rule.Priority > maxPriority:
		return invalidField("resource.priority", strconv.FormatInt(rule.Priority, 10), "Must be between 0 and 65535, inclusive.")
	case len(rule.Description) > maxDescription:
		return invalidField("resource.description", rule.Description, "Must be at most 2048 characters long.")
	}
	return nil
}

func checkAction(rule Firewall) *apiError {
	if (len(rule.Allowed) == 0) == (len(rule.Denied) == 0) {
		return invalid("Exactly one of 'allowed' and 'denied' must be specified in a firewall rule.")
	}
	for i, match := range slices.Concat(rule.Allowed, rule.Denied) {
		if failure := checkMatch("resource.allowed["+strconv.Itoa(i)+"]", match); failure != nil {
			return failure
		}
	}
	return nil
}

// withPorts are the protocols with ports.
var withPorts = []string{"tcp", "udp", "sctp", "6", "17", "132"}

var protocolNames = []string{"tcp", "udp", "icmp", "esp", "ah", "ipip", "sctp", "all"}

func checkMatch(field string, match FirewallMatch) *apiError {
	number, err := strconv.Atoi(match.IPProtocol)
	if !slices.Contains(protocolNames, match.IPProtocol) && (err != nil || number < 0 || number > 255) {
		return invalidField(field+".IPProtocol", match.IPProtocol, "Must be a known protocol name or a number from 0 to 255.")
	}
	if len(match.Ports) > 0 && !slices.Contains(withPorts, match.IPProtocol) {
		return invalidField(field+".ports", strings.Join(match.Ports, ","), "Ports may only be specified for protocols tcp, udp and sctp.")
	}
	if len(match.Ports) > maxPorts {
		return invalid("Too many ports in %s: %d, the limit is %d.", field, len(match.Ports), maxPorts)
	}
	for i, port := range match.Ports {
		if _, _, ok := ParsePorts(port); !ok {
			return invalidField(field+".ports["+strconv.Itoa(i)+"]", port, "Ports must be an integer or a range from 0 to 65535.")
		}
	}
	return nil
}

// ParsePorts parses "80" or "80-90".
func ParsePorts(s string) (from, to uint16, ok bool) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	f, err1 := strconv.ParseUint(low, 10, 16)
	t, err2 := strconv.ParseUint(high, 10, 16)
	return uint16(f), uint16(t), err1 == nil && err2 == nil && f <= t
}

func checkRanges(rule Firewall) *apiError {
	v4, all := 0, slices.Concat(rule.SourceRanges, rule.DestinationRanges)
	for field, ranges := range map[string][]string{"resource.sourceRanges": rule.SourceRanges, "resource.destinationRanges": rule.DestinationRanges} {
		for i, r := range ranges {
			prefix, ok := parseRange(r)
			if !ok {
				return invalidField(field+"["+strconv.Itoa(i)+"]", r, "Must be a valid CIDR address range.")
			}
			if prefix.Addr().Is4() {
				v4++
			}
		}
	}
	if v4 != 0 && v4 != len(all) {
		return invalidField("resource", strings.Join(all, ","), "IPv4 and IPv6 ranges cannot be mixed in one firewall rule.")
	}
	if rule.Direction == "EGRESS" && len(rule.SourceTags)+len(rule.SourceServiceAccounts) > 0 {
		return invalid("sourceTags and sourceServiceAccounts cannot be specified for EGRESS rules.")
	}
	return nil
}

// parseRange accepts an address too. GCE refuses ranges with host bits set.
func parseRange(s string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(s)
	return prefix, err == nil && prefix == prefix.Masked()
}

const (
	maxPorts        = 100 // Not documented by Google, so this is a conservative value.
	maxTargetTags   = 70
	maxSourceRanges = 5000
	// The API documents it for the rules of firewall policies.
	maxDestinationRanges = 5000
)

func checkTargets(rule Firewall) *apiError {
	tags := len(rule.SourceTags) + len(rule.TargetTags)
	accounts := len(rule.SourceServiceAccounts) + len(rule.TargetServiceAccounts)
	switch {
	case tags > 0 && accounts > 0:
		return invalid("Tags and service accounts cannot be used in the same firewall rule.")
	case len(rule.TargetTags) > maxTargetTags:
		return invalid("Too many target tags: %d, the limit is %d.", len(rule.TargetTags), maxTargetTags)
	case len(rule.SourceRanges) > maxSourceRanges:
		return invalid("Too many source ranges: %d, the limit is %d.", len(rule.SourceRanges), maxSourceRanges)
	case len(rule.DestinationRanges) > maxDestinationRanges:
		return invalid("Too many destination ranges: %d, the limit is %d.", len(rule.DestinationRanges), maxDestinationRanges)
	}
	for _, tag := range slices.Concat(rule.SourceTags, rule.TargetTags) {
		if !namePattern.MatchString(tag) {
			return invalidField("resource.targetTags", tag, "Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'")
		}
	}
	return nil
}

// checkUnchangeable refuses changes of fields that cannot be changed after a rule's creation.
func checkUnchangeable(old, now Firewall) *apiError {
	switch {
	case now.Name != old.Name:
		return invalidField("resource.name", now.Name, "The name of a firewall rule cannot be changed.")
	case now.Network != old.Network:
		return invalidField("resource.network", now.Network, "The network of a firewall rule cannot be changed.")
	case now.Direction != old.Direction:
		return invalidField("resource.direction", now.Direction, "The direction of a firewall rule cannot be changed.")
	case (len(now.Allowed) > 0) != (len(old.Allowed) > 0):
		return invalid("The action of a firewall rule cannot be changed.")
	}
	return nil
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}
