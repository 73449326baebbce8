//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// With a proxy, affinity is per node: all clients that use a node's address count as one client.
func TestDatapathSessionAffinityHoldsAndSwitches(t *testing.T) {
	t.Parallel()
	clients := newClients(t)
	overDatapathsAndFamilies(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		newBackend(t, ns, "web")
		svc := d.newService(t, ns, nil, bothProtocols(port)...)
		wantAddresses(t, svc, time.Minute, d.addresses()...)
		wantBothOpen(t, cluster.Internet, port, d.addresses()...)
		wantBackends(t, 2, cluster.Internet, port, d.addresses()...)

		editService(t, svc, func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP })
		// Another host, as a UDP flow keeps its backend, and a new flow may get the
		// source port of an earlier one.
		wantBackends(t, 1, cluster.Internet2, port, d.addresses()...)
		wantSticky(t, cluster.Internet2, port, d.addresses()...)
		if d.direct != (hasWarning(t.Context(), svc, "AffinityPerNode") != nil) {
			t.Errorf("an event is wanted with proxies, which hide the clients' addresses, and not otherwise; direct: %t", d.direct)
		}
		for _, address := range d.addresses() {
			backends := backendsOf(t, clients[d.family], address, port)
			t.Logf("by %s, %d clients reached %d backends", address, clientCount, len(backends))
			if (len(backends) > 1) != d.direct {
				t.Errorf("by %s, %d clients reached %v; they count as different clients only where their addresses are preserved", address, clientCount, backends)
			}
		}

		editService(t, svc, func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityNone })
		wantBackends(t, 2, cluster.Internet, port, d.addresses()...)
	})
}

// clientCount is the number of connections or clients that are needed to reach both of two
// backends, with a chance of failure of 1 in 500 million.
const clientCount = 30

// wantBackends waits until n of two backends answer a host at every address.
func wantBackends(t *testing.T, n int, host string, port int, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		for _, p := range protocols {
			eventually(t, time.Minute, fmt.Sprintf("%d backends answer by %s, port %d/%s", n, address, port, p.name), func(ctx context.Context) error {
				names, err := respondingBackends(ctx, p.askWithRetries, from(host), address, port, clientCount)
				if err == nil && len(names) != n {
					err = fmt.Errorf("the backends are %v", names)
				}
				return err
			})
		}
	}
}

// respondingBackends returns the names of the backends that answer n connections.
func respondingBackends(ctx context.Context, ask asker, dial dialler, address string, port, n int) ([]string, error) {
	var names []string
	for range n {
		name, err := ask(ctx, dial, address, port, askHostname)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// wantSticky checks that a single backend answers many connections of a host at every address.
func wantSticky(t *testing.T, host string, port int, addresses ...string) {
	t.Helper()
	const many = 200
	for _, address := range addresses {
		for _, p := range protocols {
			names, err := respondingBackends(t.Context(), p.askWithRetries, from(host), address, port, many)
			if err != nil || len(names) != 1 {
				t.Errorf("%d connections by %s, port %d/%s, were answered by %v (%v), want one backend", many, address, port, p.name, names, err)
			}
		}
	}
}

// newClients adds clientCount addresses in each IP family to the internet host until the test ends.
// It returns what dials from each.
func newClients(t *testing.T) map[v1.IPFamily][]dialler {
	t.Helper()
	all := map[v1.IPFamily][]dialler{}
	for _, family := range families() {
		for i := range clientCount {
			address, option := fmt.Sprintf("198.51.100.%d/32", 101+i), ""
			if family == v1.IPv6Protocol {
				// A deprecated address is used only where it is chosen explicitly.
				address, option = fmt.Sprintf("2001:db8:51:100::%d/128", 101+i), "nodad preferred_lft 0"
			}
			ipAdd(t, cluster.Internet, "addr %s "+address+" dev eth0 "+option)
			dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParsePrefix(address).Addr(), 0))}
			all[family] = append(all[family], func(ctx context.Context, network, address string) (net.Conn, error) {
				return sandbox.DialWith(ctx, dialer, cluster.Internet, network, address)
			})
		}
	}
	return all
}

// backendsOf returns the names of the backends that answer some clients. Each client must be
// answered by a single backend.
func backendsOf(t *testing.T, clients []dialler, address string, port int) []string {
	t.Helper()
	var all []string
	for _, client := range clients {
		names, err := respondingBackends(t.Context(), askTCPWithRetries, client, address, port, 5)
		if err != nil || len(names) != 1 {
			t.Fatalf("a client is answered by %v (%v), want one backend", names, err)
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
