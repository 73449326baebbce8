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

// defaultPriority is where Google's own load balancer rules are: an
// administrator's deny rule with a smaller number, or the same one, wins.
const defaultPriority = 1000

// Rule is one firewall rule in plain, comparable form. Package firewall/gce
// translates it from and to the Compute API. Lists are sorted and without
// duplicates, as NewRule leaves them.
type Rule struct {
	// Name is unique in the project that holds the network.
	Name string
	// Description carries the ownership mark, see FormatMark.
	Description string
	// Network is the name of the VPC network.
	Network string
	// Direction is Ingress or Egress.
	Direction string
	// Priority is 0 (first) to 65535; among equals a deny wins.
	Priority int64
	Disabled bool
	Allowed  []Allow
	// SourceRanges are CIDR ranges of one IP family.
	SourceRanges []string
	// TargetTags are the network tags of the VMs that it opens. Empty would
	// open the whole network, so rules of ours never have it empty.
	TargetTags []string

	// The rest is what a rule of ours never has. It is compared so that an
	// edit by hand that narrows or turns a rule does not go unnoticed.

	Denied                                       []Allow
	DestinationRanges, SourceTags                []string
	SourceServiceAccounts, TargetServiceAccounts []string
}

// Target is where the nodes are, for those who must know: firewalls of clouds.
type Target struct {
	// Network is the name of the VPC network.
	Network string
	// Tags are the network tags that the nodes bear. At least one.
	Tags []string
}

// Desired computes the rules that spec needs at target, at most one per IP
// family, sorted by name. A Service without ports, without source ranges or
// without nodes needs none.
func Desired(spec Spec, target Target) ([]Rule, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	if !spec.opensAnything() {
		return nil, nil
	}
	if len(target.Tags) == 0 {
		return nil, fmt.Errorf("no target tags for Service %s: a rule without them would open the whole network %s", spec.Owner.Service, target.Network)
	}
	var rules []Rule
	for _, family := range []Family{IPv4, IPv6} {
		if ranges := rangesOf(family, spec.SourceRanges); len(ranges) > 0 {
			rules = append(rules, desiredRule(spec, target, family, ranges))
		}
	}
	return rules, nil
}

// validate refuses what would open more than was meant: a port of zero stands
// for every port in a firewall rule.
func (s Spec) validate() error {
	for _, p := range s.Ports {
		if !p.canBeOpened() {
			return fmt.Errorf("port %q/%d of Service %s cannot be opened: it wants a number from 1 to 65535 of TCP, UDP or SCTP", p.Protocol, p.Port, s.Owner.Service)
		}
	}
	return s.Owner.validate()
}

func (p Port) canBeOpened() bool {
	known := p.Protocol == v1.ProtocolTCP || p.Protocol == v1.ProtocolUDP || p.Protocol == v1.ProtocolSCTP
	return known && p.Port != 0
}

// opensAnything says whether anybody may reach anything.
func (s Spec) opensAnything() bool {
	return len(s.Ports) > 0 && len(s.SourceRanges) > 0 && len(s.Nodes) > 0
}

func desiredRule(spec Spec, target Target, family Family, ranges []string) Rule {
	return Rule{
		Name:         RuleName(spec.Owner, family),
		Description:  FormatMark(spec.Owner),
		Network:      target.Network,
		Direction:    Ingress,
		Priority:     defaultPriority,
		Allowed:      allowsOf(spec.Ports),
		SourceRanges: ranges,
		TargetTags:   slices.Compact(slices.Sorted(slices.Values(target.Tags))),
	}
}

// Family is an IP family. IPv4 and IPv6 ranges cannot share a rule on GCE.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// rangesOf picks the ranges of one family, written canonically, without those
// that lie within another.
func rangesOf(family Family, prefixes []netip.Prefix) []string {
	var wide []netip.Prefix
	for _, p := range slices.SortedFunc(slices.Values(prefixes), func(a, b netip.Prefix) int { return a.Bits() - b.Bits() }) {
		p = p.Masked()
		inFamily := p.Addr().Is4() == (family == IPv4)
		covered := slices.ContainsFunc(wide, func(w netip.Prefix) bool { return w.Contains(p.Addr()) })
		if p.IsValid() && inFamily && !covered {
			wide = append(wide, p)
		}
	}
	var ranges []string
	for _, p := range wide {
		ranges = append(ranges, p.String())
	}
	slices.Sort(ranges)
	return ranges
}

// NamePrefix begins the name of every rule of ours. Google's own controllers
// claim "k8s-".
const NamePrefix = "hostport-"

const (
	maxNameLength = 63
	hashLength    = 12
)

// RuleName names the rule of owner for one IP family:
// hostport-<namespace>-<name>-<hash>-v4, at most 63 characters. Names are
// unique per project and several clusters may share one, so the hash is over
// cluster id and UID; the rest is for people.
func RuleName(owner Owner, family Family) string {
	tail := fmt.Sprintf("-%s-v%d", ownerHash(owner), family)
	head := NamePrefix + rfc1035(owner.Service.Namespace+"-"+owner.Service.Name)
	head = head[:min(len(head), maxNameLength-len(tail))]
	return strings.TrimRight(head, "-") + tail
}

// ownerHash is 60 bits of a hash, in lower case letters and digits.
func ownerHash(owner Owner) string {
	sum := sha256.Sum256([]byte(owner.ClusterID + "\x00" + string(owner.UID)))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:hashLength]
}

// rfc1035 replaces what a resource name of GCE must not hold.
func rfc1035(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
}
