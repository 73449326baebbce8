package firewall

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func owner() Owner {
	return Owner{ClusterID: "prod", Service: types.NamespacedName{Namespace: "web", Name: "traefik"}, UID: "0a1b2c3d-0000-4000-8000-000000000001"}
}

func prefixes(written ...string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, w := range written {
		parsed = append(parsed, netip.MustParsePrefix(w))
	}
	return parsed
}

func spec() Spec {
	return Spec{
		Owner: owner(), Ports: []Port{{v1.ProtocolTCP, 443}, {v1.ProtocolUDP, 443}, {v1.ProtocolTCP, 80}},
		SourceRanges: prefixes("0.0.0.0/0"), Nodes: []string{"gce://p/z/n"}, Addresses: addresses("203.0.113.1", "10.0.0.1", "2001:db8::1"),
	}
}

func addresses(written ...string) []netip.Addr {
	var parsed []netip.Addr
	for _, w := range written {
		parsed = append(parsed, netip.MustParseAddr(w))
	}
	return parsed
}

var target = Target{Network: "vpc", Tags: []string{"node"}, NodeTags: [][]string{{"node"}}}

func TestAServiceGetsOneRulePerFamily(t *testing.T) {
	s := spec()
	s.SourceRanges = prefixes("::/0", "10.1.2.3/8", "10.9.0.0/16", "192.0.2.0/24")
	got, err := Desired(s, Target{Network: "vpc", Tags: []string{"b", "a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	v4 := Rule{
		Name:        "hostport-web-traefik-c3imwm74usp3-v4",
		Description: `{"hostport-ccm.io/cluster-id":"prod","hostport-ccm.io/service":"web/traefik","hostport-ccm.io/service-uid":"0a1b2c3d-0000-4000-8000-000000000001"}`,
		Network:     "vpc", Direction: "INGRESS", Priority: 1000, TargetTags: []string{"a", "b"},
		Allowed:      []Allow{{"tcp", 80, 80}, {"tcp", 443, 443}, {"udp", 443, 443}},
		SourceRanges: []string{"10.0.0.0/8", "192.0.2.0/24"}, DestinationRanges: []string{"10.0.0.1/32", "203.0.113.1/32"},
	}
	v6 := v4
	v6.Name, v6.SourceRanges, v6.DestinationRanges = "hostport-web-traefik-c3imwm74usp3-v6", []string{"::/0"}, []string{"2001:db8::1/128"}
	if diff := cmp.Diff([]Rule{v4, v6}, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestWhatOpensNothingNeedsNoRule(t *testing.T) {
	for name, empty := range map[string]func(*Spec){
		"no ports":                            func(s *Spec) { s.Ports = nil },
		"no source ranges":                    func(s *Spec) { s.SourceRanges = nil },
		"no nodes":                            func(s *Spec) { s.Nodes = nil },
		"no addresses":                        func(s *Spec) { s.Addresses = nil },
		"no addresses of the clients' family": func(s *Spec) { s.Addresses = addresses("2001:db8::1") },
	} {
		s := spec()
		empty(&s)
		if rules, err := Desired(s, target); err != nil || len(rules) != 0 {
			t.Errorf("%s: %v, %v", name, rules, err)
		}
	}
}

func TestOnlyARuleWithMoreAddressesThanItCanHaveHasNone(t *testing.T) {
	for _, n := range []int{MaxDestinationRanges, MaxDestinationRanges + 1} {
		s := spec()
		s.Addresses = nil
		for i := range n {
			s.Addresses = append(s.Addresses, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
		}
		want := n
		if n > MaxDestinationRanges {
			want = 0
		}
		rules, err := Desired(s, target)
		if err != nil || len(rules) != 1 || len(rules[0].DestinationRanges) != want {
			t.Errorf("%d addresses: %d rules, %v", n, len(rules), err)
		}
	}
}

func TestWhatWouldOpenTooMuchIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Spec)
		want  string
	}{
		"port zero, which means all": {func(s *Spec) { s.Ports = append(s.Ports, Port{v1.ProtocolTCP, 0}) }, "web/traefik"},
		"no protocol":                {func(s *Spec) { s.Ports = []Port{{"", 80}} }, "TCP, UDP or SCTP"},
		"no cluster id":              {func(s *Spec) { s.Owner.ClusterID = "" }, "cluster id"},
		"no UID":                     {func(s *Spec) { s.Owner.UID = "" }, "UID"},
		"UID that is a pattern":      {func(s *Spec) { s.Owner.UID = ".*\"" }, "UID"},
	} {
		s := spec()
		c.spoil(&s)
		if rules, err := Desired(s, target); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, rules, err)
		}
	}
	if _, err := Desired(spec(), Target{Network: "vpc"}); err == nil || !strings.Contains(err.Error(), "whole network vpc") {
		t.Errorf("without target tags: %v", err)
	}
}

var validName = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)

func drawOwner(t *rapid.T, label string) Owner {
	dns := rapid.StringMatching(`[a-z0-9]([-a-z0-9.]{0,60}[a-z0-9])?`)
	return Owner{
		ClusterID: dns.Draw(t, label+" cluster"),
		Service:   types.NamespacedName{Namespace: dns.Draw(t, label+" namespace"), Name: dns.Draw(t, label+" name")},
		UID:       types.UID(rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}`).Draw(t, label+" uid")),
	}
}

func TestNamesAreValidAndDifferByClusterUIDAndFamily(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawOwner(t, "a"), drawOwner(t, "b")
		names := []string{RuleName(a, IPv4), RuleName(a, IPv6), RuleName(b, IPv4), RuleName(b, IPv6)}
		for _, name := range names {
			if !validName.MatchString(name) || !strings.HasPrefix(name, NamePrefix) {
				t.Errorf("%q is no name", name)
			}
		}
		same := a.ClusterID == b.ClusterID && a.UID == b.UID
		slices.Sort(names)
		if n := len(slices.Compact(names)); !same && n != 4 {
			t.Errorf("%d names of 4 are different: %v", n, names)
		}
	})
}

func TestMarksAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := drawOwner(t, "owner")
		if got, err := ParseMark(FormatMark(o)); err != nil || got != o {
			t.Errorf("%+v became %+v, %v", o, got, err)
		}
	})
}

func TestOtherDescriptionsAreNoMarks(t *testing.T) {
	mark := FormatMark(owner())
	for _, description := range []string{
		"", "{}", "null", "created by an administrator", mark + " ", " " + mark, mark + mark,
		strings.Replace(mark, "prod", "", 1),
		strings.Replace(mark, "web/traefik", "webtraefik", 1),
		strings.Replace(mark, "web/traefik", "web/a/b", 1),
		strings.Replace(mark, "}", `,"extra":"x"}`, 1),
		strings.Replace(mark, "cluster-id", "CLUSTER-ID", 1),
		`{"kubernetes.io/service-name":"web/traefik"}`,
	} {
		if o, err := ParseMark(description); err == nil {
			t.Errorf("%q was taken for the mark of %+v", description, o)
		}
	}
}

func FuzzParseSharedMark(f *testing.F) {
	f.Add(formatJSON(sharedMark{"prod", "abc-v4", map[string]string{"abcdefgh": "tcp:80-81,udp:53"}}))
	f.Add(`{"hostport-ccm.io/cluster-id":"prod","hostport-ccm.io/shared-by":"k","hostport-ccm.io/open":null}`)
	f.Fuzz(func(t *testing.T, description string) {
		m, err := parseSharedMark(description)
		if err != nil {
			return
		}
		if formatJSON(m) != description {
			t.Errorf("%q was read as %+v", description, m)
		}
		if _, err := ParseMark(description); err == nil {
			t.Errorf("%q is the mark of one Service too", description)
		}
	})
}

func FuzzParseMark(f *testing.F) {
	f.Add(FormatMark(owner()))
	f.Add(`{"hostport-ccm.io/cluster-id":"a","hostport-ccm.io/service":"b/c","hostport-ccm.io/service-uid":"d"}`)
	f.Fuzz(func(t *testing.T, description string) {
		if o, err := ParseMark(description); err == nil && FormatMark(o) != description {
			t.Errorf("%q was taken for %q", description, FormatMark(o))
		}
	})
}

// allPorts lists every single port that is allowed.
func allPorts(allows []Allow) []string {
	var ports []string
	for _, a := range allows {
		for p := int(a.From); p <= int(a.To); p++ {
			ports = append(ports, fmt.Sprintf("%s:%d", a.Protocol, p))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func TestMergedPortsOpenTheSameAndDoNotTouch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		allow := rapid.Custom(func(t *rapid.T) Allow {
			from := rapid.Uint16Range(1, 60).Draw(t, "from")
			return Allow{rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "protocol"), from, from + rapid.Uint16Range(0, 5).Draw(t, "more")}
		})
		allows := rapid.SliceOf(allow).Draw(t, "allows")
		merged := Merge(allows)
		if diff := cmp.Diff(allPorts(allows), allPorts(merged)); diff != "" {
			t.Errorf("ports (-before +after):\n%s", diff)
		}
		for i := 1; i < len(merged); i++ {
			a, b := merged[i-1], merged[i]
			if a.Protocol == b.Protocol && int(b.From) <= int(a.To)+1 {
				t.Errorf("%v and %v touch", a, b)
			}
		}
		if diff := cmp.Diff(merged, Merge(merged)); diff != "" {
			t.Errorf("merging twice (-once +twice):\n%s", diff)
		}
	})
}

func TestPortsAtTheEdgesMerge(t *testing.T) {
	for _, c := range []struct{ in, want []Allow }{
		{[]Allow{{"tcp", 65535, 65535}, {"tcp", 65534, 65534}}, []Allow{{"tcp", 65534, 65535}}},
		{[]Allow{{"tcp", 65535, 65535}, {"tcp", 1, 1}}, []Allow{{"tcp", 1, 1}, {"tcp", 65535, 65535}}},
		{[]Allow{{"tcp", 80, 80}, {"tcp", 0, 0}}, []Allow{{"tcp", 0, 0}}},
		{[]Allow{{"tcp", 1, 1}, {"udp", 2, 2}}, []Allow{{"tcp", 1, 1}, {"udp", 2, 2}}},
	} {
		if diff := cmp.Diff(c.want, Merge(c.in)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.in, diff)
		}
	}
}

func TestRangesCoverTheSameAddressesWithoutOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
			addr := netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b"), 0, rapid.Byte().Draw(t, "d")})
			return netip.PrefixFrom(addr, rapid.IntRange(0, 32).Draw(t, "bits"))
		})
		in := rapid.SliceOf(prefix).Draw(t, "ranges")
		out := prefixes(rangesOf(IPv4, in)...)
		for _, p := range in {
			if !slices.ContainsFunc(out, func(w netip.Prefix) bool { return w.Bits() <= p.Bits() && w.Contains(p.Addr()) }) {
				t.Errorf("%v is in none of %v", p, out)
			}
		}
		for i, a := range out {
			for _, b := range out[i+1:] {
				if a.Overlaps(b) {
					t.Errorf("%v and %v overlap", a, b)
				}
			}
		}
	})
}
