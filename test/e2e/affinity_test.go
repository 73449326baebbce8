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

// With the proxy, affinity is per node: all who come by a node are one client.
func TestDatapathSessionAffinityHoldsAndSwitches(t *testing.T) {
	t.Parallel()
	crowd := newCrowd(t)
	overDatapathsAndFamilies(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		newBackend(t, ns, "web")
		svc := d.newService(t, ns, nil, bothProtocols(port)...)
		wantAddresses(t, svc, time.Minute, d.addresses()...)
		wantBothOpen(t, cluster.Internet, port, d.addresses()...)
		wantAnswerers(t, 2, cluster.Internet, port, d.addresses()...)

		editService(t, svc, func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP })
		// Another host, as a UDP flow keeps its backend: one that had a source port
		// before would go on for whoever gets that port again.
		wantAnswerers(t, 1, cluster.Internet2, port, d.addresses()...)
		wantSticky(t, cluster.Internet2, port, d.addresses()...)
		for _, address := range d.addresses() {
			met := backendsOf(t, crowd[d.family], address, port)
			t.Logf("by %s, %d clients met %d backends", address, aCrowd, len(met))
			if (len(met) > 1) != d.direct {
				t.Errorf("by %s, %d clients met %v; they are different clients only where their addresses are kept", address, aCrowd, met)
			}
		}

		editService(t, svc, func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityNone })
		wantAnswerers(t, 2, cluster.Internet, port, d.addresses()...)
	})
}

// aCrowd is how many connections, or clients, go to both of two backends, save
// once in 500 million times.
const aCrowd = 30

// wantAnswerers waits until that many of two backends answer a host, by every
// address.
func wantAnswerers(t *testing.T, n int, host string, port int, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		for _, p := range protocols {
			eventually(t, time.Minute, fmt.Sprintf("%d backends answer by %s, port %d/%s", n, address, port, p.name), func(ctx context.Context) error {
				names, err := answerers(ctx, p.askPatiently, from(host), address, port, aCrowd)
				if err == nil && len(names) != n {
					err = fmt.Errorf("these do: %v", names)
				}
				return err
			})
		}
	}
}

// answerers returns which backends answer n connections from one place.
func answerers(ctx context.Context, ask asker, dial dialler, address string, port, n int) ([]string, error) {
	var names []string
	for range n {
		name, err := ask(ctx, dial, address, port, whoAreYou)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// wantSticky checks that one backend answers many connections of a host, by
// every address.
func wantSticky(t *testing.T, host string, port int, addresses ...string) {
	t.Helper()
	const many = 200
	for _, address := range addresses {
		for _, p := range protocols {
			names, err := answerers(t.Context(), p.askPatiently, from(host), address, port, many)
			if err != nil || len(names) != 1 {
				t.Errorf("%d connections by %s, port %d/%s, were answered by %v (%v), want one backend", many, address, port, p.name, names, err)
			}
		}
	}
}

// crowd is what dials from each of many addresses, by IP family.
type crowd map[v1.IPFamily][]dialler

// newCrowd gives the internet host many more addresses, until the test ends.
func newCrowd(t *testing.T) crowd {
	t.Helper()
	all := crowd{}
	for _, family := range families() {
		for i := range aCrowd {
			address, option := fmt.Sprintf("198.51.100.%d/32", 101+i), ""
			if family == v1.IPv6Protocol {
				// Nobody uses a deprecated address without asking for it.
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

// backendsOf returns which backends answer some clients, each of which has to
// be answered by one only.
func backendsOf(t *testing.T, clients []dialler, address string, port int) []string {
	t.Helper()
	var all []string
	for _, client := range clients {
		names, err := answerers(t.Context(), askTCPPatiently, client, address, port, 5)
		if err != nil || len(names) != 1 {
			t.Fatalf("a client is answered by %v (%v), want one backend", names, err)
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
