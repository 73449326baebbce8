//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestANearlyFullProxyIsReported(t *testing.T) {
	t.Parallel()
	svc, port := newWeb(t)
	p := proxyOn(t, svc, "node1")
	trackConnections(t, p, svc.Spec.ClusterIP, port, 52_000)
	eventually(t, 3*time.Minute, "a Warning names the proxy's node and port", func(ctx context.Context) error {
		return hasWarning(ctx, svc, "ProxyNearlyFull", "node1", fmt.Sprintf("port %d/TCP over IPv4", port))
	})
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

// trackConnections makes connection tracking in a proxy's network remember n connections from
// addresses that nobody has (RFC 2544).
func trackConnections(t *testing.T, p proxy, clusterIP string, port, n int) {
	t.Helper()
	written, err := p.pid()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(written)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := vnetns.GetFromPid(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	handle, err := netlink.NewHandleAt(pod, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	// The library writes the first four bytes of an address, so these must not have the long form.
	own, target := net.ParseIP(p.ip).To4(), net.ParseIP(clusterIP).To4()
	for i := range n {
		client := net.IPv4(198, 18, byte(i>>8), byte(i)).To4()
		err := handle.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET,
			Forward:    netlink.IPTuple{Protocol: unix.IPPROTO_TCP, SrcIP: client, SrcPort: 40_000, DstIP: own, DstPort: uint16(port)},
			Reverse:    netlink.IPTuple{Protocol: unix.IPPROTO_TCP, SrcIP: target, SrcPort: uint16(port), DstIP: own, DstPort: uint16(1024 + i)},
			TimeOut:    600,
			ProtoInfo:  &netlink.ProtoInfoTCP{State: nl.TCP_CONNTRACK_ESTABLISHED},
		})
		// One of the requests before may have this source port.
		if err != nil && !errors.Is(err, unix.EEXIST) {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}
