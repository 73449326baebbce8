//go:build e2e

package e2e

import (
	"context"
	"fmt"
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
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	node := cluster.Nodes(cluster.GCE)[0]
	proxy := proxyOn(t, svc, node.Name)
	ipAdd(t, cluster.Gateway, "route %s "+nobody+" via "+cluster.InternetIP)

	// With the kernel's own timeouts, 64,512 of these use up the source ports for a minute.
	err := sandbox.On(cluster.Internet, func() error {
		return synflood.Send(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(node.ExternalIP), uint16(port)), netip.MustParsePrefix(nobody), 100_000, 4_000)
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the port is usable at once", func(ctx context.Context) error {
		_, err := getTCP(ctx, node.ExternalIP, port)
		return err
	})
	connections := fmt.Sprintf(`hostport_nodeproxy_port_connections_total{family="IPv4",protocol="TCP",port="%d"}`, port)
	if began := proxy.metric(t, connections); began <= 64_512 {
		t.Errorf("only %d connections began in the proxy, so this test proves nothing", began)
	}
}
