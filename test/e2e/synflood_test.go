//go:build e2e

package e2e

import (
	"net/netip"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
	"github.com/hostport-ccm/hostport-ccm/test/synflood"
)

// nobody is a prefix without hosts. Packets to it end at the internet host, which drops them.
const nobody = "192.0.2.0/24"

func TestAServiceStaysUsableUnderAFloodOfHalfOpenConnections(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	node := cluster.Nodes(cluster.GCE)[0]
	proxy := proxyOn(t, svc, node.Name)
	ipAdd(t, cluster.Gateway, "route %s "+nobody+" via "+cluster.InternetIP)

	// Of these, 64,512 would suffice with the kernel's own timeouts. The new connections are on all
	// nodes, so that the others show what the machine's load costs.
	during := startNewConnections(t, 80, cluster.Nodes(cluster.GCE), func(n cluster.Node) string { return n.ExternalIP })
	err := sandbox.On(cluster.Internet, func() error {
		return synflood.Send(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(node.ExternalIP), 80), netip.MustParsePrefix(nobody), 100_000, 4_000)
	})
	if err != nil {
		t.Fatal(err)
	}
	during.wantNoneFailed(t, "under a flood")
	wantOpen(t, getTCP, "web", 80, node.ExternalIP)
	const connections = `hostport_nodeproxy_port_connections_total{family="IPv4",protocol="TCP",port="80"}`
	if began := proxy.metric(t, connections); began <= 64_512 {
		t.Errorf("only %d connections began in the proxy, so this test proves nothing", began)
	}
}
