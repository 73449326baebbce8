//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"

	"google.golang.org/api/compute/v1"
	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDatapathSourceRangesAreEnforcedAtTheFirewallAndBehindIt(t *testing.T) {
	t.Parallel()
	overDatapathsAndFamilies(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		one := d.v4or6(cluster.InternetIP, cluster.InternetIPv6)
		other := d.v4or6(cluster.Internet2IP, cluster.Internet2IPv6)
		newBackend(t, ns, "web")
		svc := d.newService(t, ns, onlyFrom(one), bothProtocols(port)...)
		wantAddresses(t, svc, time.Minute, d.addresses()...)
		wantBothOpen(t, cluster.Internet, port, d.addresses()...)
		packets := countPackets(t, "node1", other, port)
		wantBothClosed(t, cluster.Internet2, port, d.addresses()...)
		if n := packets(); n != 0 {
			t.Errorf("the firewall allowed %d packets from %s", n, other)
		}

		openManually(t, port, d.v4or6("0.0.0.0/0", "::/0"))
		wantBothClosed(t, cluster.Internet2, port, d.addresses()...)
		if packets() == 0 {
			t.Errorf("no packet from %s reached the node, so there was nothing to refuse behind the firewall", other)
		}
		wantBothOpen(t, cluster.Internet, port, d.addresses()...)

		editService(t, svc, onlyFrom(other))
		wantBothOpen(t, cluster.Internet2, port, d.addresses()...)
		waitBothClosed(t, cluster.Internet, port, d.addresses()[0])
	})
}

func TestDatapathInternalAddressesAnswerTheInternalNetworkAlone(t *testing.T) {
	t.Parallel()
	overDatapaths(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		newBackend(t, ns, "web")
		svc := d.newService(t, ns, withAnnotation(options.NodeAddresses, string(options.Internal)), bothProtocols(port)...)
		internal := ips(cluster.Nodes(cluster.GCE), internalIP)
		wantAddresses(t, svc, time.Minute, internal...)
		wantBothOpen(t, cluster.Control, port, internal...)
		wantBothClosed(t, cluster.Internet, port, d.addresses()...)
		rules, err := rulesOf(t.Context(), svc)
		if want := []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}; err != nil || len(rules) != 1 || !slices.Equal(rules[0].SourceRanges, want) {
			t.Errorf("the rules are %+v (%v), want one from %v", rules, err, want)
		}

		packets := countPackets(t, "node1", cluster.InternetIP, port)
		openManually(t, port, "0.0.0.0/0")
		wantBothClosed(t, cluster.Internet, port, d.addresses()...)
		if packets() == 0 {
			t.Error("no packet from the internet reached the node, so there was nothing to refuse behind the firewall")
		}
		editService(t, svc, onlyFrom(cluster.InternetIP))
		wantBothOpen(t, cluster.Internet, port, d.addresses()...)
		waitBothClosed(t, cluster.Control, port, internal[0])
	})
}

// onlyFrom sets a Service's source ranges to some addresses.
func onlyFrom(addresses ...string) func(*v1.Service) {
	var ranges []string
	for _, written := range addresses {
		address := netip.MustParseAddr(written)
		ranges = append(ranges, netip.PrefixFrom(address, address.BitLen()).String())
	}
	return func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = ranges }
}

// openManually creates a firewall rule that opens a port of the nodes to a range, until the test
// ends.
func openManually(t *testing.T, port int, sourceRange string) {
	t.Helper()
	ports := []string{fmt.Sprint(port)}
	insertRule(t, &compute.Firewall{
		Name: fmt.Sprint("manually-created-", port), TargetTags: []string{cluster.NodeTag}, SourceRanges: []string{sourceRange},
		Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp", Ports: ports}, {IPProtocol: "udp", Ports: ports}},
	})
}

var packetCount = regexp.MustCompile(`counter packets (\d+)`)

// countPackets counts a client's packets to a port of a node from now on, before any other rule of
// the node. It returns a function that reads the counter.
func countPackets(t *testing.T, node, client string, port int) func() int {
	t.Helper()
	nft := func(ctx context.Context, args ...string) string {
		out, err := sandbox.Exec(ctx, node, append([]string{"nft"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	family := "ip"
	if netip.MustParseAddr(client).Is6() {
		family = "ip6"
	}
	table := fmt.Sprint("inet e2e-", port)
	nft(t.Context(), "add table "+table)
	t.Cleanup(func() { nft(context.WithoutCancel(t.Context()), "delete table "+table) })
	nft(t.Context(), "add chain "+table+" count { type filter hook prerouting priority -300 ; }")
	nft(t.Context(), fmt.Sprintf("add rule %s count %s saddr %s th dport %d counter", table, family, client, port))
	return func() int {
		t.Helper()
		var count int
		match := packetCount.FindStringSubmatch(nft(t.Context(), "list table "+table))
		if match == nil {
			t.Fatal("the counter is gone")
		}
		if _, err := fmt.Sscan(match[1], &count); err != nil {
			t.Fatal(err)
		}
		return count
	}
}
