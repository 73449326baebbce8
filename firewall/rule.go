package firewall

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Directions of a Rule.
const (
	Ingress = "INGRESS"
	Egress  = "EGRESS"
)

// defaultPriority is that of Google's own load balancer rules: deny rules of an
// administrator with the same or a smaller number take precedence.
const defaultPriority = 1000

// Rule is a firewall rule in a form that can be compared. Package firewall/gce converts it from and
// to the form of the Compute API. Lists may be in any order; Diff compares them as sets.
type Rule struct {
	// Name is unique in the project of the network.
	Name string
	// Description has the ownership mark, see FormatMark.
	Description string
	// Network is the name of the VPC network.
	Network string
	// Direction is Ingress or Egress.
	Direction string
	// Priority is 0 (first) to 65535. Of rules with equal priority, those that
	// deny take precedence.
	Priority int64
	Disabled bool
	Allowed  []Allow
	// SourceRanges are CIDR ranges of one IP family.
	SourceRanges []string
	// DestinationRanges are CIDR ranges of the same family. Empty means every
	// address of the VMs to which the rule applies.
	DestinationRanges []string
	// TargetTags are network tags: the rule applies to VMs that have one of them.
	// Empty applies to all VMs of the network. Our rules always have some.
	TargetTags []string
	// NodeSelection is that of the Service in a rule that Desired returned. It is
	// not part of a rule of the cloud, and not compared.
	NodeSelection string

	// Our rules never have the following. They are compared because an edit of
	// them changes what the rule allows.

	Denied                                       []Allow
	SourceTags                                   []string
	SourceServiceAccounts, TargetServiceAccounts []string
}

// Summary returns in a few words what the rule allows. Of long lists it has the first values.
func (r Rule) Summary() string {
	destinations := ""
	if len(r.DestinationRanges) > 0 {
		destinations = abbreviate(asSet(r.DestinationRanges)) + " at "
	}
	return fmt.Sprintf("%s from %s to %stags %s", abbreviate(allowStrings(r.Allowed)),
		abbreviate(asSet(r.SourceRanges)), destinations, abbreviate(asSet(r.TargetTags)))
}

// MaxDestinationRanges is the number of destination ranges that our rules have
// at most. The Compute API documents this limit for the rules of firewall
// policies; for VPC firewall rules it has not been compared with a document.
const MaxDestinationRanges = 5000

// Target is what rules apply to.
type Target struct {
	// Network is the name of the VPC network.
	Network string
	// Tags are the target tags, at least one.
	Tags []string
	// NodeTags has for every node a list of tags that it has for certain. Nodes may share a list.
	NodeTags [][]string
	// Destinations are those of the Service's addresses; nil: Desired computes them.
	Destinations Destinations
}

// Desired returns the rules that spec needs, at most one per IP family, sorted by name. Their lists
// are sorted and have no duplicates. A Service without ports, source ranges or nodes needs none.
//
// The destination ranges are the nodes' addresses: other VMs with the target tags serve nothing of
// the Service. Google does not document with which address of a translated pair a destination is
// compared, so both are named. Only with more than MaxDestinationRanges addresses, rules have no
// destination ranges.
func Desired(spec Spec, target Target) ([]Rule, error) {
	for _, p := range spec.Ports {
		if !p.valid() {
			return nil, fmt.Errorf("port %q/%d of Service %s cannot be opened: expected a number from 1 to 65535 of TCP, UDP or SCTP", p.Protocol, p.Port, spec.Owner.Service)
		}
	}
	if err := spec.Owner.validate(); err != nil {
		return nil, err
	}
	if len(spec.Ports) == 0 || len(spec.SourceRanges) == 0 || len(spec.Nodes) == 0 {
		return nil, nil
	}
	if len(target.Tags) == 0 {
		return nil, fmt.Errorf("no target tags for Service %s: a rule without them would open the whole network %s", spec.Owner.Service, target.Network)
	}
	var rules []Rule
	destinations := target.Destinations
	if destinations == nil {
		destinations = DestinationsOf(spec.Addresses)
	}
	for _, family := range []Family{IPv4, IPv6} {
		ranges := rangesOf(family, spec.SourceRanges)
		ofFamily, found := destinations[family]
		if len(ranges) == 0 || !found {
			continue
		}
		rules = append(rules, Rule{
			Name:              RuleName(spec.Owner, family),
			Description:       FormatMark(spec.Owner),
			Network:           target.Network,
			Direction:         Ingress,
			Priority:          defaultPriority,
			Allowed:           allowsOf(spec.Ports...),
			SourceRanges:      ranges,
			DestinationRanges: ofFamily,
			NodeSelection:     spec.NodeSelection,
			TargetTags:        slices.Compact(slices.Sorted(slices.Values(target.Tags))),
		})
	}
	return rules, nil
}

// valid reports whether a rule can allow the port and nothing else: in a rule,
// port 0 would stand for every port.
func (p Port) valid() bool {
	return p.Port != 0 && slices.Contains([]v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP}, p.Protocol)
}

// Family is an IP family. A rule of GCE cannot have ranges of both.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// rangesOf returns the ranges of one family in canonical form, without those
// that are part of another.
func rangesOf(family Family, prefixes []netip.Prefix) []string {
	var ofFamily []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4() == (family == IPv4) {
			ofFamily = append(ofFamily, p.Masked())
		}
	}
	// In this order, all parts of a range follow it.
	slices.SortFunc(ofFamily, netip.Prefix.Compare)
	var last netip.Prefix
	var ranges []string
	for _, p := range ofFamily {
		if !last.Contains(p.Addr()) {
			last, ranges = p, append(ranges, p.String())
		}
	}
	slices.Sort(ranges)
	return ranges
}

// NamePrefix begins the names of our rules. Google's controllers use "k8s-".
const NamePrefix = "hostport-"

const (
	maxNameLength = 63
	hashLength    = 12
)

// RuleName returns the name of owner's rule for one IP family:
// hostport-<namespace>-<name>-<hash>-v4, at most 63 characters. Names are unique
// per project and several clusters may share one, so the hash is over cluster id
// and UID.
func RuleName(owner Owner, family Family) string {
	tail := fmt.Sprintf("-%s-v%d", shortHash(owner.ClusterID+"\x00"+string(owner.UID)), family)
	allowed := func(r rune) rune { // By RFC 1035, as GCE requires.
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}
	head := NamePrefix + strings.Map(allowed, strings.ToLower(owner.Service.Namespace+"-"+owner.Service.Name))
	head = head[:min(len(head), maxNameLength-len(tail))]
	return strings.TrimRight(head, "-") + tail
}

// shortHash returns 60 bits of a hash, in lower case letters and digits.
func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:hashLength]
}
