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

func TestSourceRangesHoldAtTheFirewallAndInTheProxy(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Spec.LoadBalancerSourceRanges = []string{cluster.InternetIP + "/32"}
	}, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	node := cluster.Nodes(cluster.GCE)[0]
	arrived := countArrivals(t, node.Name, cluster.Internet2IP, 80)
	other := func(ctx context.Context, address string, port int) (string, error) {
		return getTCPFrom(ctx, cluster.Internet2, address, port)
	}
	wantOpen(t, getTCP, "web", 80, externalIPs()...)

	wantClosed(t, other, 80, externalIPs()...)
	if n := arrived(); n != 0 {
		t.Errorf("the firewall let %d packets from %s through to %s", n, cluster.Internet2IP, node.Name)
	}

	insertRule(t, &compute.Firewall{
		Name: "opened-by-hand", TargetTags: []string{cluster.NodeTag}, SourceRanges: []string{"0.0.0.0/0"},
		Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp", Ports: []string{"80"}}},
	})
	wantClosed(t, other, 80, externalIPs()...)
	if arrived() == 0 {
		t.Errorf("no packet from %s arrived at %s, so the proxy had nothing to refuse", cluster.Internet2IP, node.Name)
	}
	wantOpen(t, getTCP, "web", 80, externalIPs()...)

	editService(t, svc, func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{cluster.Internet2IP + "/32"} })
	wantOpen(t, other, "web", 80, externalIPs()...)
	eventually(t, time.Minute, "the host that is no longer let in is refused", func(ctx context.Context) error {
		return isClosed(ctx, getTCP, node.ExternalIP, 80)
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
	nft(t.Context(), "add table ip e2e")
	t.Cleanup(func() { nft(context.WithoutCancel(t.Context()), "delete table ip e2e") })
	nft(t.Context(), "add chain ip e2e arrivals { type filter hook prerouting priority -300 ; }")
	nft(t.Context(), fmt.Sprintf("add rule ip e2e arrivals ip saddr %s tcp dport %d counter", client, port))
	return func() int {
		t.Helper()
		var count int
		match := packetCount.FindStringSubmatch(nft(t.Context(), "list table ip e2e"))
		if match == nil {
			t.Fatal("the counter is gone")
		}
		if _, err := fmt.Sscan(match[1], &count); err != nil {
			t.Fatal(err)
		}
		return count
	}
}
