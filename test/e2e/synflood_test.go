//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
	"github.com/hostport-ccm/hostport-ccm/test/synflood"
)

// nobody is a prefix without hosts. Packets to it end at the internet host, which drops them.
const nobody = "192.0.2.0/24"

func TestAServiceStaysUsableUnderAFloodOfHalfOpenConnections(t *testing.T) {
	svc, port := newWeb(t)
	node := cluster.Nodes(cluster.GCE)[0]
	proxy := proxyOn(t, svc, node.Name)
	ipAdd(t, cluster.Gateway, "route %s "+nobody+" via "+cluster.InternetIP)

	connections := fmt.Sprintf(`hostport_nodeproxy_port_connections_total{family="IPv4",protocol="TCP",port="%d"}`, port)
	began := func() int { return proxy.metric(t, connections) }

	// With the kernel's own timeouts, the port would be unusable from here on for a minute.
	const allSourcePorts = 64_512
	ended := make(chan error, 1)
	go func() {
		ended <- sandbox.On(cluster.Internet, func() error {
			return synflood.Send(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(node.ExternalIP), uint16(port)), netip.MustParsePrefix(nobody), 100_000, 4_000)
		})
	}()
	answered, failed := 0, 0
	for flooding := true; flooding; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			flooding = false
		case <-time.After(250 * time.Millisecond):
			if began() <= allSourcePorts {
				continue
			}
			if _, err := getTCP(t.Context(), node.ExternalIP, port); err != nil {
				failed++
			} else {
				answered++
			}
		}
	}
	t.Logf("of the requests after the first %d connections, %d were answered and %d failed", allSourcePorts, answered, failed)
	if failed > answered {
		t.Error("the port was not usable during the flood")
	}
	wantOpen(t, getTCP, "web", port, node.ExternalIP)
	if n := began(); n <= allSourcePorts {
		t.Errorf("only %d connections began in the proxy, so this test proves nothing", n)
	}
}
