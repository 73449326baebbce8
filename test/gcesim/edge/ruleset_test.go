package edge

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

const networkURL = "https://www.googleapis.com/compute/v1/projects/p/global/networks/vpc"

func TestRulesAreInComputeEnginesOrderOfEvaluation(t *testing.T) {
	anywhere := []string{"0.0.0.0/0"}
	rules := []gcesim.Firewall{
		{Name: "later", Priority: 1000, Direction: "INGRESS", Network: networkURL, SourceRanges: anywhere, Allowed: tcp("80"), TargetTags: []string{"node"}},
		{Name: "first", Priority: 10, Direction: "INGRESS", Network: networkURL, SourceRanges: anywhere, Allowed: tcp("22")},
		{Name: "denied", Priority: 1000, Direction: "INGRESS", Network: networkURL, SourceRanges: []string{"198.51.100.0/24", "198.51.100.7/32"}, Denied: tcp("80", "81-90", "85-99"), TargetTags: []string{"db"}},
		{Name: "off", Disabled: true, Direction: "INGRESS", Network: networkURL, SourceRanges: anywhere, Allowed: tcp("1")},
		{Name: "elsewhere", Direction: "INGRESS", Network: networkURL + "2", SourceRanges: anywhere, Allowed: tcp("2")},
		{Name: "out", Direction: "EGRESS", Network: networkURL, Denied: tcp("3")},
		{Name: "by-tag", Direction: "INGRESS", Network: networkURL, SourceTags: []string{"db"}, Allowed: tcp("4")},
		{Name: "no-target", Direction: "INGRESS", Network: networkURL, SourceRanges: anywhere, TargetTags: []string{"nobody"}, Allowed: tcp("5")},
		{Name: "to-a", Priority: 1500, Direction: "INGRESS", Network: networkURL, SourceRanges: anywhere, DestinationRanges: []string{"10.0.0.0/30", "203.0.113.1/32"}, Allowed: tcp("6")},
		{Name: "not-to-a", Priority: 1600, Direction: "INGRESS", Network: networkURL, SourceRanges: anywhere, DestinationRanges: []string{"203.0.113.1"}, Denied: tcp("6")},
		{Name: "to-half-of-a", Priority: 1700, Direction: "INGRESS", Network: networkURL, SourceRanges: anywhere, DestinationRanges: []string{"203.0.113.1"}, Allowed: tcp("6")},
		{Name: "six", Priority: 2000, Direction: "INGRESS", Network: networkURL, SourceRanges: []string{"::/0"}, TargetTags: []string{"node"},
			Allowed: []gcesim.FirewallMatch{{IPProtocol: "icmp"}, {IPProtocol: "all"}, {IPProtocol: "ipip"}}},
	}
	got := strings.Split(strings.TrimSpace(ingress(gcesim.Snapshot{Firewalls: rules, Instances: instances()}, "vpc")), "\n")
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	want := []string{
		`meta nfproto ipv4 ip daddr { 10.0.0.1/32, 10.0.0.2/32, 10.0.0.4/32 } meta l4proto tcp th dport { 22-22 } counter accept comment "first"`,
		`ip saddr { 198.51.100.0/24 } ip daddr { 10.0.0.2/32 } meta l4proto tcp th dport { 80-99 } counter drop comment "denied"`,
		`meta nfproto ipv4 ip daddr { 10.0.0.1/32, 10.0.0.2/32 } meta l4proto tcp th dport { 80-80 } counter accept comment "later"`,
		`meta nfproto ipv4 ip daddr { 10.0.0.1/32, 10.0.0.2/32 } meta l4proto tcp th dport { 6-6 } counter accept comment "to-a"`,
		`meta nfproto ipv4 ip daddr { 10.0.0.1/32 } meta l4proto tcp th dport { 6-6 } counter drop comment "not-to-a"`,
		`meta nfproto ipv6 ip6 daddr { 2001:db8::1/128 } meta l4proto ipv6-icmp counter accept comment "six"`,
		`meta nfproto ipv6 ip6 daddr { 2001:db8::1/128 } counter accept comment "six"`,
		`meta nfproto ipv6 ip6 daddr { 2001:db8::1/128 } meta l4proto 4 counter accept comment "six"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestOnlyRunningInstancesOfTheNetworkAreMapped(t *testing.T) {
	want := []vm{{internal: "10.0.0.1", external: "203.0.113.1"}}
	if diff := cmp.Diff(want, vmsOf(instances(), "vpc"), cmp.AllowUnexported(vm{})); diff != "" {
		t.Errorf("mappings (-want +got):\n%s", diff)
	}
}

func instances() []gcesim.Instance {
	return []gcesim.Instance{
		{Name: "a", Status: "RUNNING", Tags: []string{"node"}, Interface: gcesim.Interface{Network: "vpc", NetworkIP: "10.0.0.1", NatIP: "203.0.113.1", ExternalIPv6: "2001:db8::1"}},
		{Name: "b", Status: "RUNNING", Tags: []string{"node", "db"}, Interface: gcesim.Interface{Network: "vpc", NetworkIP: "10.0.0.2"}},
		{Name: "c", Status: "RUNNING", Tags: []string{"node"}, Interface: gcesim.Interface{Network: "other", NetworkIP: "10.9.0.3", NatIP: "203.0.113.3"}},
		{Name: "d", Status: "TERMINATED", Interface: gcesim.Interface{Network: "vpc", NetworkIP: "10.0.0.4", NatIP: "203.0.113.4"}},
	}
}

func tcp(ports ...string) []gcesim.FirewallMatch {
	return []gcesim.FirewallMatch{{IPProtocol: "tcp", Ports: ports}}
}
