//go:build e2e

package e2e

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// datapath is a way of packets from a node's address to the backends.
type datapath struct {
	// name is the value of the Service's annotation.
	name string
	// direct says that no proxy is in the way.
	direct bool
}

var datapaths = []datapath{{name: "proxy"}, {name: "direct", direct: true}}

// overDatapaths runs a test for each datapath, side by side.
func overDatapaths(t *testing.T, test func(*testing.T, datapath)) {
	for _, d := range datapaths {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}

// newService makes a Service that is served by this datapath.
func (d datapath) newService(t *testing.T, namespace string, change func(*v1.Service), ports ...v1.ServicePort) *v1.Service {
	t.Helper()
	return newService(t, namespace, "web", func(svc *v1.Service) {
		withAnnotation("hostport-ccm.io/datapath", d.name)(svc)
		if change != nil {
			change(svc)
		}
	}, ports...)
}

var portsTaken atomic.Int32

// freePort returns a port that no test that may run at the same time has.
func freePort() int { return 7000 + int(portsTaken.Add(1)) }

// bothProtocols returns the Service ports for a port.
func bothProtocols(port int) []v1.ServicePort {
	return []v1.ServicePort{servicePort(v1.ProtocolTCP, int32(port)), servicePort(v1.ProtocolUDP, int32(port))}
}

// wantBothOpen waits until backends answer a host by every address, over TCP
// and UDP.
func wantBothOpen(t *testing.T, host string, port int, addresses ...string) {
	t.Helper()
	for _, p := range protocols {
		wantOpen(t, p.getFrom(host), "web", port, addresses...)
	}
}

// wantBothClosed checks that nobody answers a host.
func wantBothClosed(t *testing.T, host string, port int, addresses ...string) {
	t.Helper()
	for _, p := range protocols {
		wantClosed(t, p.getFrom(host), port, addresses...)
	}
}

// clientsOf returns hosts of the internet, by the address with which they come
// to this one.
func clientsOf(address string) map[string]string {
	if netip.MustParseAddr(address).Is6() {
		return map[string]string{cluster.InternetIPv6: cluster.Internet, cluster.Internet2IPv6: cluster.Internet2}
	}
	return map[string]string{cluster.InternetIP: cluster.Internet, cluster.Internet2IP: cluster.Internet2}
}

func TestDatapathClientsAddressAndPodsAsClients(t *testing.T) {
	t.Parallel()
	overDatapaths(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		backend := newPod(t, ns, "web", "node1")
		newPod(t, ns, "web", "node2")
		svc := d.newService(t, ns, func(s *v1.Service) {
			s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		}, bothProtocols(port)...)
		// A backend that meets itself, its neighbour, and a pod on a node without backends.
		pods := []pod{backend, newPod(t, ns, "neighbour", "node1"), newPod(t, ns, "stranger", "node3")}

		local := externalIPs("node3")
		wantAddresses(t, svc, time.Minute, local...)
		wantBothOpen(t, cluster.Internet, port, local...)
		for _, address := range local {
			if d.direct {
				wantClientSeen(t, address, port, func(client string) string { return client })
				continue
			}
			proxy := proxyOn(t, svc, nodeOf(address))
			wantClientSeen(t, address, port, func(string) string { return proxy.ip })
		}
		wantReachedByPods(t, pods, port, local...)

		editService(t, svc, func(s *v1.Service) { s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster })
		wantAddresses(t, svc, time.Minute, externalIPs()...)
		wantBothOpen(t, cluster.Internet, port, externalIPs()...)
		wantReachedByPods(t, pods, port, externalIPs()...)
	})
}

// wantClientSeen checks which address backends see as that of each client.
func wantClientSeen(t *testing.T, address string, port int, want func(client string) string) {
	t.Helper()
	for client, host := range clientsOf(address) {
		for _, protocol := range protocols {
			// Often, as it may depend on the backend.
			for range 10 {
				seen, err := protocol.ask(t.Context(), from(host), address, port, whoAmI)
				if err != nil {
					t.Fatalf("%s from %s to %s: %v", protocol.name, client, address, err)
				}
				if got, _, _ := net.SplitHostPort(seen); got != want(client) {
					t.Errorf("%s from %s to %s: the backend saw %s, want %s", protocol.name, client, address, seen, want(client))
				}
			}
		}
	}
}

// wantReachedByPods waits until each pod reaches a backend by each address.
func wantReachedByPods(t *testing.T, pods []pod, port int, addresses ...string) {
	t.Helper()
	for _, p := range pods {
		for _, protocol := range protocols {
			wantOpen(t, p.getter(protocol), "web", port, addresses...)
		}
	}
}
