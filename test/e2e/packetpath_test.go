//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// This is why some of Kubernetes' own tests cannot pass with datapath direct, which are in
// test/conformance/exceptions.yaml: they assume one address before all nodes. With policy Local, packets
// to a node's address reach no endpoint on another node.
func TestDirectLocalPacketsStayOnTheirNode(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	with, without := cluster.Nodes(cluster.GCE)[0], cluster.Nodes(cluster.GCE)[1]
	local := newPod(t, ns, "web", with.Name)
	svc := newService(t, ns, "web", directLocal, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, with.ExternalIP)
	wantOpen(t, getTCP, "web", port, with.ExternalIP)

	counted := map[string]packetCounters{}
	for _, node := range []cluster.Node{with, without} {
		counted[node.Name] = countArrivedAndLeft(t, node.Name, port)
	}
	wantOpen(t, getTCP, "web", port, with.ExternalIP)
	wantClosed(t, getTCP, port, without.ExternalIP)
	if arrived, left := counted[with.Name].read(t); arrived == 0 || left == 0 {
		t.Errorf("%s has an endpoint: %d packets arrived and %d left to it, want some", with.Name, arrived, left)
	}
	if arrived, left := counted[without.Name].read(t); arrived == 0 || left > 0 {
		t.Errorf("%s has no endpoint: %d packets arrived and %d left, want some to arrive and none to leave", without.Name, arrived, left)
	}

	// With an endpoint of its own, the same address answers, and each address gives its node's endpoint.
	other := newPod(t, ns, "web", without.Name)
	wantAddresses(t, svc, time.Minute, with.ExternalIP, without.ExternalIP)
	wantOpen(t, getTCP, "web", port, without.ExternalIP)
	for address, want := range map[string]pod{with.ExternalIP: local, without.ExternalIP: other} {
		for range 20 {
			name, err := askTCPWithRetries(t.Context(), from(cluster.Internet), address, port, askHostname)
			if err != nil || name != want.name {
				t.Fatalf("%s was answered by %q, want %s (%v)", address, name, want.name, err)
			}
		}
	}
}

// packetCounters count the packets of new connections to a port of a node: those that arrive there, and
// those that leave the node's network namespace, to a pod or another node.
type packetCounters struct{ node, table string }

func countArrivedAndLeft(t *testing.T, node string, port int) packetCounters {
	t.Helper()
	c := packetCounters{node, fmt.Sprint("packets", port)}
	nft := func(ctx context.Context, commands ...string) {
		if _, err := sandbox.Exec(ctx, node, "nft", strings.Join(commands, "; ")); err != nil {
			t.Error(err)
		}
	}
	nft(t.Context(), "add table inet "+c.table,
		"add chain inet "+c.table+" arrived { type filter hook prerouting priority raw; }",
		fmt.Sprintf("add rule inet %s arrived tcp dport %d counter", c.table, port),
		"add chain inet "+c.table+" left { type filter hook postrouting priority srcnat; }",
		fmt.Sprintf("add rule inet %s left meta l4proto tcp ct direction original ct original proto-dst %d counter", c.table, port))
	t.Cleanup(func() { nft(context.WithoutCancel(t.Context()), "delete table inet "+c.table) })
	return c
}

var packetsCounted = regexp.MustCompile(`counter packets (\d+)`)

func (c packetCounters) read(t *testing.T) (arrived, left int) {
	t.Helper()
	var counts [2]int
	for i, chain := range []string{"arrived", "left"} {
		out, err := sandbox.Exec(t.Context(), c.node, "nft", "list", "chain", "inet", c.table, chain)
		if err != nil {
			t.Fatal(err)
		}
		match := packetsCounted.FindStringSubmatch(out)
		if match == nil {
			t.Fatalf("no counter in %s", out)
		}
		if counts[i], err = strconv.Atoi(match[1]); err != nil {
			t.Fatal(err)
		}
	}
	return counts[0], counts[1]
}
