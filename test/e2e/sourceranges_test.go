//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"testing"
	"time"

	"google.golang.org/api/compute/v1"
	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDatapathSourceRangesHoldAtTheFirewallAndBehindIt(t *testing.T) {
	t.Parallel()
	overDatapaths(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		newBackend(t, ns, "web")
		svc := d.newService(t, ns, onlyFrom(cluster.InternetIP), bothProtocols(port)...)
		wantAddresses(t, svc, time.Minute, externalIPs()...)
		wantBothOpen(t, cluster.Internet, port, externalIPs()...)
		arrived := countArrivals(t, "node1", cluster.Internet2IP, port)
		wantBothClosed(t, cluster.Internet2, port, externalIPs()...)
		if n := arrived(); n != 0 {
			t.Errorf("the firewall let %d packets from %s through", n, cluster.Internet2IP)
		}

		openByHand(t, port)
		wantBothClosed(t, cluster.Internet2, port, externalIPs()...)
		if arrived() == 0 {
			t.Errorf("no packet from %s arrived, so there was nothing to refuse behind the firewall", cluster.Internet2IP)
		}
		wantBothOpen(t, cluster.Internet, port, externalIPs()...)

		editService(t, svc, onlyFrom(cluster.Internet2IP))
		wantBothOpen(t, cluster.Internet2, port, externalIPs()...)
		for _, p := range protocols {
			eventually(t, time.Minute, "the host that is no longer let in is refused", func(ctx context.Context) error {
				return isClosed(ctx, p.getFrom(cluster.Internet), externalIPs()[0], port)
			})
		}
	})
}

// onlyFrom lets one address in.
func onlyFrom(address string) func(*v1.Service) {
	return func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{address + "/32"} }
}

// openByHand makes a firewall rule that lets everybody reach a port of the
// nodes, until the test ends.
func openByHand(t *testing.T, port int) {
	t.Helper()
	ports := []string{fmt.Sprint(port)}
	insertRule(t, &compute.Firewall{
		Name: fmt.Sprint("opened-by-hand-", port), TargetTags: []string{cluster.NodeTag}, SourceRanges: []string{"0.0.0.0/0"},
		Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp", Ports: ports}, {IPProtocol: "udp", Ports: ports}},
	})
}

var packetCount = regexp.MustCompile(`counter packets (\d+)`)

// countArrivals counts a client's packets to a port where they enter a node.
func countArrivals(t *testing.T, node, client string, port int) func() int {
	t.Helper()
	nft := func(ctx context.Context, args ...string) string {
		out, err := sandbox.Exec(ctx, node, append([]string{"nft"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	table := fmt.Sprint("ip e2e-", port)
	nft(t.Context(), "add table "+table)
	t.Cleanup(func() { nft(context.WithoutCancel(t.Context()), "delete table "+table) })
	nft(t.Context(), "add chain "+table+" arrivals { type filter hook prerouting priority -300 ; }")
	nft(t.Context(), fmt.Sprintf("add rule %s arrivals ip saddr %s th dport %d counter", table, client, port))
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
