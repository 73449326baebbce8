package firewall

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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

// sharedMark is the description of a shared rule: the cluster it belongs to,
// and what the Services that share it have in common, as a key.
type sharedMark struct {
	ClusterID string `json:"hostport-ccm.io/cluster-id"`
	Key       string `json:"hostport-ccm.io/shared-by"`
}

// SharedMarkField occurs in the description of every shared rule, and of no
// other rule of ours.
const SharedMarkField = "hostport-ccm.io/shared-by"

func formatSharedMark(m sharedMark) string {
	data, err := json.Marshal(m)
	if err != nil {
		panic(err) // A struct of strings always marshals.
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
	return m, nil
}

// IsSharedBy says whether the rule is one that Services of this cluster share.
func (r Rule) IsSharedBy(clusterID string) bool {
	m, err := parseSharedMark(r.Description)
	return err == nil && m.ClusterID == clusterID
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

// Share computes the shared rules of a cluster. have are those that are there;
// wanted are the rules that its Services would have with the layout PerService;
// keep are ports of which it is not known what their Services want: they stay
// in the rules they are in. A port that is open stays in its rule, so that
// nothing is closed by moving it.
func Share(clusterID string, have, wanted []Rule, keep []Port) []Rule {
	groups := map[string]*group{}
	of := func(key string) *group {
		if groups[key] == nil {
			groups[key] = &group{ports: map[Port]bool{}}
		}
		return groups[key]
	}
	for _, r := range slices.SortedFunc(slices.Values(have), byName) {
		if m, err := parseSharedMark(r.Description); err == nil && m.ClusterID == clusterID {
			of(m.Key).add(r, keep)
		}
	}
	for _, r := range wanted {
		of(sharedKey(r)).want(r)
	}
	var rules []Rule
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		rules = append(rules, groups[key].rules(sharedMark{clusterID, key})...)
	}
	return rules
}

// group is the Services that share rules.
type group struct {
	// template is any rule wanted; nil: none is.
	template *Rule
	have     []Rule
	ports    map[Port]bool
}

func (g *group) add(have Rule, keep []Port) {
	g.have = append(g.have, have)
	for _, port := range keep {
		if slices.ContainsFunc(have.Allowed, allow(port).within) {
			g.ports[port] = true
		}
	}
}

func (g *group) want(r Rule) {
	g.template = &r
	for _, a := range r.Allowed {
		for n := int(a.From); n <= int(a.To); n++ {
			g.ports[portOf(a.Protocol, uint16(n))] = true
		}
	}
}

// rules leaves every port in the rule that has it, and puts new ones where
// there is room.
func (g *group) rules(mark sharedMark) []Rule {
	allowed := make([][]Allow, len(g.have))
	var homeless []Port
	for _, port := range slices.SortedFunc(maps.Keys(g.ports), comparePorts) {
		home := slices.IndexFunc(g.have, func(r Rule) bool { return slices.ContainsFunc(r.Allowed, allow(port).within) })
		if home < 0 || !place(&allowed[home], port) {
			homeless = append(homeless, port)
		}
	}
	for _, port := range homeless {
		if slices.ContainsFunc(indices(allowed), func(i int) bool { return place(&allowed[i], port) }) {
			continue
		}
		allowed = append(allowed, []Allow{allow(port)})
	}
	return g.name(allowed, mark)
}

func indices(list [][]Allow) []int {
	var all []int
	for i := range list {
		all = append(all, i)
	}
	return all
}

// place adds a port to a list of ranges if there is room.
func place(list *[]Allow, port Port) bool {
	with := Merge(append(slices.Clone(*list), allow(port)))
	protocol := allow(port).Protocol
	ranges := 0
	for _, a := range with {
		if a.Protocol == protocol {
			ranges++
		}
	}
	if ranges > MaxPortRanges {
		return false
	}
	*list = with
	return true
}

// name makes rules of lists of ports: the first ones are those that are there.
func (g *group) name(allowed [][]Allow, mark sharedMark) []Rule {
	var rules []Rule
	taken := func(name string) bool {
		return slices.ContainsFunc(g.have, func(r Rule) bool { return r.Name == name }) ||
			slices.ContainsFunc(rules, func(r Rule) bool { return r.Name == name })
	}
	for i, list := range allowed {
		if len(list) == 0 {
			continue
		}
		var r Rule
		switch {
		case g.template != nil:
			r = *g.template
		default: // Nobody is known to want more than that it stays.
			r = g.have[min(i, len(g.have)-1)]
		}
		r.Description, r.Allowed = formatSharedMark(mark), list
		if i < len(g.have) {
			r.Name = g.have[i].Name
		} else {
			n := 1
			for r.Name = sharedName(mark.ClusterID, mark.Key, n); taken(r.Name); n++ {
				r.Name = sharedName(mark.ClusterID, mark.Key, n+1)
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
