package firewall

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Layout is how Services are spread over rules.
type Layout string

// The layouts.
const (
	// PerService gives each Service rules of its own.
	PerService Layout = "per-service"
	// Shared has Services with equal source ranges and target tags share
	// rules, for projects with many Services and a small quota of rules.
	Shared Layout = "shared"
)

// MaxPortRanges is how many ports or ranges of ports a rule of ours has per
// protocol at most. Google documents no limit; 100 is known to be taken.
const MaxPortRanges = 100

// maxDescription is the longest description that GCE takes.
const maxDescription = 2048

// sharedMark is the description of a shared rule: the cluster it belongs to,
// what the Services that share it have in common, as a key, and what of it is
// open for which of them. So it can be told from the rule alone, after a
// restart too, what may go and what has to stay.
type sharedMark struct {
	ClusterID string `json:"hostport-ccm.io/cluster-id"`
	Key       string `json:"hostport-ccm.io/shared-by"`
	// Open is by shareOf, in the form "tcp:80,tcp:8000-8080".
	Open map[string]string `json:"hostport-ccm.io/open"`
}

// SharedMarkField occurs in the description of every shared rule, and of no
// other rule of ours.
const SharedMarkField = "hostport-ccm.io/shared-by"

func formatSharedMark(m sharedMark) string {
	data, err := json.Marshal(m)
	if err != nil {
		panic(err) // Strings always marshal.
	}
	return string(data)
}

// parseSharedMark takes only what formatSharedMark wrote, letter by letter.
func parseSharedMark(description string) (sharedMark, error) {
	var m sharedMark
	decoder := json.NewDecoder(bytes.NewReader([]byte(description)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return m, err
	}
	if m.ClusterID == "" || m.Key == "" || formatSharedMark(m) != description {
		return m, errors.New("not written as this program writes it")
	}
	for _, open := range m.Open {
		if ports, err := parsePorts(open); err != nil || formatPorts(ports) != open {
			return m, fmt.Errorf("%q is not written as this program writes ports", open)
		}
	}
	return m, nil
}

// parsePorts reads what formatPorts wrote.
func parsePorts(text string) ([]Port, error) {
	var ports []Port
	for _, item := range strings.Split(text, ",") {
		protocol, numbers, _ := strings.Cut(item, ":")
		from, to, isRange := strings.Cut(numbers, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		last, errLast := strconv.ParseUint(to, 10, 16)
		p := portOf(protocol, uint16(first))
		if errors.Join(err, errLast) != nil || !p.canBeOpened() {
			return nil, fmt.Errorf("%q is no list of ports", text)
		}
		for n := first; n <= last; n++ {
			ports = append(ports, portOf(protocol, uint16(n)))
		}
	}
	return ports, nil
}

func formatPorts(ports []Port) string { return strings.Join(allowStrings(allowsOf(ports)), ",") }

// shareOf names a Service in the mark of a shared rule, in as few letters as
// tell the Services of one cluster apart.
func shareOf(owner Owner) string { return shortHash(string(owner.UID))[:8] }

// IsSharedBy says whether the rule is one that Services of this cluster share.
func (r Rule) IsSharedBy(clusterID string) bool {
	m, err := parseSharedMark(r.Description)
	return err == nil && m.ClusterID == clusterID
}

// OpensFor says whether the rule is one that owner shares with others.
func (r Rule) OpensFor(owner Owner) bool {
	m, err := parseSharedMark(r.Description)
	_, takesPart := m.Open[shareOf(owner)]
	return err == nil && m.ClusterID == owner.ClusterID && takesPart
}

// sharedKey is equal for rules that differ in their ports and owners only.
func sharedKey(r Rule) string {
	family := IPv6
	if prefix, err := netip.ParsePrefix(r.SourceRanges[0]); err == nil && prefix.Addr().Is4() {
		family = IPv4
	}
	text := fmt.Sprintf("%q %q %q", r.Network, r.SourceRanges, r.TargetTags)
	return fmt.Sprintf("%s-v%d", shortHash(text), family)
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:hashLength]
}

// sharedName is unique in the project. n counts from 1.
func sharedName(clusterID, key string, n int) string {
	hash, family, _ := strings.Cut(key, "-")
	name := NamePrefix + "shared-" + shortHash(clusterID+"\x00"+hash) + "-" + family
	if n > 1 {
		name += fmt.Sprintf("-%d", n)
	}
	return name
}

// OpensOnlyFor says whether a shared rule opens nothing for anybody but owners.
func (r Rule) OpensOnlyFor(owners []Owner) bool {
	known := map[string]bool{}
	for _, owner := range owners {
		known[shareOf(owner)] = true
	}
	m, _ := parseSharedMark(r.Description)
	for share := range m.Open {
		if !known[share] {
			return false
		}
	}
	return true
}

// Share computes the shared rules of a cluster. have are those that are there;
// wanted are the rules that its Services would have with the layout PerService;
// what is open for those in stay remains as it is. What is open for anybody else
// goes. What is open for a Service stays in its rule, so that nothing is closed
// by moving it.
func Share(clusterID string, have, wanted []Rule, stay []Owner) []Rule {
	stays := map[string]bool{}
	for _, owner := range stay {
		stays[shareOf(owner)] = true
	}
	return share(clusterID, have, wanted, func(share string) bool { return stays[share] })
}

// LeaveShared computes the steps that close what is open for owner in have, the
// shared rules that are there, and leave all else as it is.
func LeaveShared(owner Owner, have []Rule) []Change {
	left := share(owner.ClusterID, have, nil, func(share string) bool { return share != shareOf(owner) })
	return slices.DeleteFunc(ShareChanges(have, left), func(c Change) bool {
		return slices.ContainsFunc(have, func(h Rule) bool { return h.Name == c.Rule.Name && !h.OpensFor(owner) })
	})
}

func share(clusterID string, have, wanted []Rule, stays func(share string) bool) []Rule {
	groups := map[string]*group{}
	of := func(key string) *group {
		if groups[key] == nil {
			groups[key] = &group{wanted: map[piece]bool{}}
		}
		return groups[key]
	}
	for _, r := range slices.SortedFunc(slices.Values(have), byName) {
		if m, err := parseSharedMark(r.Description); err == nil && m.ClusterID == clusterID {
			of(m.Key).add(r, m, stays)
		}
	}
	for _, r := range wanted {
		of(sharedKey(r)).want(r)
	}
	var rules []Rule
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		rules = append(rules, groups[key].rules(clusterID, key)...)
	}
	return rules
}

// piece is one port that is open for one Service, by shareOf.
type piece struct {
	share string
	port  Port
}

func comparePieces(a, b piece) int {
	return cmp.Or(comparePorts(a.port, b.port), strings.Compare(a.share, b.share))
}

// group is the Services that share rules.
type group struct {
	// template is any rule wanted; nil: none is.
	template *Rule
	have     []Rule
	// in are the pieces of the rules that are there.
	in     []map[piece]bool
	wanted map[piece]bool
}

func (g *group) add(have Rule, mark sharedMark, stays func(share string) bool) {
	in := map[piece]bool{}
	for share, open := range mark.Open {
		ports, _ := parsePorts(open) // As parseSharedMark has seen, valid.
		for _, port := range ports {
			in[piece{share, port}] = true
			if stays(share) {
				g.wanted[piece{share, port}] = true
			}
		}
	}
	g.have, g.in = append(g.have, have), append(g.in, in)
}

func (g *group) want(r Rule) {
	owner, err := ParseMark(r.Description)
	if err != nil {
		return // Not a rule of Desired's.
	}
	g.template = &r
	for _, a := range r.Allowed {
		for n := int(a.From); n <= int(a.To); n++ {
			g.wanted[piece{shareOf(owner), portOf(a.Protocol, uint16(n))}] = true
		}
	}
}

// rules leaves every piece in the rule that has it, and puts new ones where
// there is room.
func (g *group) rules(clusterID, key string) []Rule {
	empty := sharedMark{ClusterID: clusterID, Key: key}
	var bins []*bin
	for range g.have {
		bins = append(bins, newBin(empty))
	}
	var homeless []piece
	for _, p := range slices.SortedFunc(maps.Keys(g.wanted), comparePieces) {
		home := slices.IndexFunc(g.in, func(in map[piece]bool) bool { return in[p] })
		if home < 0 || !bins[home].place(p) {
			homeless = append(homeless, p)
		}
	}
	for _, p := range homeless {
		if slices.ContainsFunc(bins, func(b *bin) bool { return b.place(p) }) {
			continue
		}
		fresh := newBin(empty)
		fresh.place(p)
		bins = append(bins, fresh)
	}
	return g.name(bins, empty)
}

// bin is what one rule is to have.
type bin struct {
	allowed []Allow
	open    map[string][]Port // By share.
	// length is what the mark has at most.
	length int
}

func newBin(empty sharedMark) *bin {
	return &bin{open: map[string][]Port{}, length: len(formatSharedMark(empty))}
}

// place adds a piece if there is room.
func (b *bin) place(p piece) bool {
	length := b.length + len(allow(p.port).String()) + len(",")
	if b.open[p.share] == nil {
		length += len(p.share) + len(`"":"",`)
	}
	with := Merge(append(slices.Clone(b.allowed), allow(p.port)))
	if length > maxDescription || rangesFor(allow(p.port).Protocol, with) > MaxPortRanges {
		return false
	}
	b.allowed, b.length = with, length
	b.open[p.share] = append(b.open[p.share], p.port)
	return true
}

func rangesFor(protocol string, allows []Allow) int {
	ranges := 0
	for _, a := range allows {
		if a.Protocol == protocol {
			ranges++
		}
	}
	return ranges
}

// mark is the empty one with what is open.
func (b *bin) mark(empty sharedMark) string {
	empty.Open = map[string]string{}
	for share, ports := range b.open {
		empty.Open[share] = formatPorts(ports)
	}
	return formatSharedMark(empty)
}

// name makes rules of bins: the first ones are those that are there.
func (g *group) name(bins []*bin, empty sharedMark) []Rule {
	var rules []Rule
	taken := func(name string) bool {
		return slices.ContainsFunc(g.have, func(r Rule) bool { return r.Name == name }) ||
			slices.ContainsFunc(rules, func(r Rule) bool { return r.Name == name })
	}
	for i, b := range bins {
		if len(b.allowed) == 0 {
			continue
		}
		var r Rule
		switch {
		case g.template != nil:
			r = *g.template
		default: // Nobody is known to want more than that it stays.
			r = g.have[min(i, len(g.have)-1)]
		}
		r.Description, r.Allowed = b.mark(empty), b.allowed
		if i < len(g.have) {
			r.Name = g.have[i].Name
		} else {
			n := 1
			for r.Name = sharedName(empty.ClusterID, empty.Key, n); taken(r.Name); n++ {
				r.Name = sharedName(empty.ClusterID, empty.Key, n+1)
			}
		}
		rules = append(rules, r)
	}
	return rules
}

// ShareChanges computes the steps from have, the shared rules that are there,
// to want. What opens something comes before what closes something.
func ShareChanges(have, want []Rule) []Change {
	changes := changesOf(have, want, func(Rule) bool { return true })
	closes := func(c Change) int {
		i := slices.IndexFunc(have, func(h Rule) bool { return h.Name == c.Rule.Name })
		switch {
		case c.Action == Remove:
			return 2
		case i >= 0 && !slices.ContainsFunc(c.Rule.Allowed, func(a Allow) bool { return !slices.ContainsFunc(have[i].Allowed, a.within) }):
			return 1
		}
		return 0
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return closes(a) - closes(b) })
	return changes
}

// SharesWith says whether the shared rule r is one of those that the Service
// which would have the rules own takes part in.
func (r Rule) SharesWith(own []Rule) bool {
	m, err := parseSharedMark(r.Description)
	return err == nil && slices.ContainsFunc(own, func(o Rule) bool { return sharedKey(o) == m.Key })
}
