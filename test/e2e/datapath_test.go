//go:build e2e

package e2e

import (
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDatapathClientsAddressAndPodsAsClients(t *testing.T) {
	t.Parallel()
	overDatapathsAndFamilies(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		backend := newPod(t, ns, "web", "node1")
		newPod(t, ns, "web", "node2")
		svc := d.newService(t, ns, func(s *v1.Service) {
			s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		}, bothProtocols(port)...)
		// A backend, which may reach itself, a pod on the same node, and one on a node without
		// backends.
		pods := []pod{backend, newPod(t, ns, "client", "node1"), newPod(t, ns, "client", "node3")}

		nodes := cluster.Nodes(cluster.GCE)[:2]
		wantAddresses(t, svc, time.Minute, ips(nodes, d.address)...)
		wantBothOpen(t, cluster.Internet, port, ips(nodes, d.address)...)
		if d.direct {
			wantNoProxies(t, svc)
		}
		for _, node := range nodes {
			for client, host := range d.clients() {
				want := []string{client}
				if !d.direct {
					want = proxyOn(t, svc, node.Name).ips
				}
				wantClientSeen(t, host, d.address(node), port, want...)
			}
		}
		wantReachedByPods(t, pods, port, ips(nodes, d.address)...)

		editService(t, svc, func(s *v1.Service) { s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster })
		wantAddresses(t, svc, time.Minute, d.addresses()...)
		wantBothOpen(t, cluster.Internet, port, d.addresses()...)
		wantReachedByPods(t, pods, port, d.addresses()...)
	})
}

// wantClientSeen checks that every backend sees one of some addresses as the address of the client.
func wantClientSeen(t *testing.T, host, address string, port int, want ...string) {
	t.Helper()
	for _, p := range protocols {
		for range 10 {
			seen, err := p.askWithRetries(t.Context(), from(host), address, port, askClientIP)
			if err != nil {
				t.Fatalf("from %s to %s, port %d/%s: %v", host, address, port, p.name, err)
			}
			if client, _, _ := net.SplitHostPort(seen); !slices.Contains(want, client) {
				t.Errorf("from %s to %s, port %d/%s: the backend saw %s, want %v", host, address, port, p.name, seen, want)
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

// datapath is the way of packets of one IP family from a node's address to the backends.
type datapath struct {
	// name is the value of the Service's annotation.
	name string
	// direct is true without proxies.
	direct bool
	family v1.IPFamily
}

// overDatapaths runs a test for each datapath in parallel, over IPv4.
func overDatapaths(t *testing.T, test func(*testing.T, datapath)) {
	for _, d := range datapathsOf(v1.IPv4Protocol) {
		d.run(t, d.name, test)
	}
}

// overDatapathsAndFamilies runs a test for each datapath in each IP family of the sandbox in
// parallel.
func overDatapathsAndFamilies(t *testing.T, test func(*testing.T, datapath)) {
	for _, family := range families() {
		for _, d := range datapathsOf(family) {
			d.run(t, d.name+" "+string(family), test)
		}
	}
}

func (d datapath) run(t *testing.T, name string, test func(*testing.T, datapath)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		test(t, d)
	})
}

// datapathsOf returns the datapaths of an IP family.
func datapathsOf(family v1.IPFamily) []datapath {
	return []datapath{{"proxy", false, family}, {"direct", true, family}}
}

// newService creates a Service that is served by this datapath.
func (d datapath) newService(t *testing.T, namespace string, change func(*v1.Service), ports ...v1.ServicePort) *v1.Service {
	t.Helper()
	return newService(t, namespace, "web", func(svc *v1.Service) {
		withAnnotation(options.Datapath, d.name)(svc)
		svc.Spec.IPFamilies = []v1.IPFamily{d.family}
		if change != nil {
			change(svc)
		}
	}, ports...)
}

// address returns the published address of a node.
func (d datapath) address(node cluster.Node) string { return d.v4or6(node.ExternalIP, node.IPv6) }

// addresses returns the published addresses of all nodes.
func (d datapath) addresses() []string { return ips(cluster.Nodes(cluster.GCE), d.address) }

// clients returns the internet hosts by their addresses.
func (d datapath) clients() map[string]string {
	return map[string]string{
		d.v4or6(cluster.InternetIP, cluster.InternetIPv6):   cluster.Internet,
		d.v4or6(cluster.Internet2IP, cluster.Internet2IPv6): cluster.Internet2,
	}
}

// v4or6 returns the argument of the datapath's IP family.
func (d datapath) v4or6(v4, v6 string) string {
	if d.family == v1.IPv6Protocol {
		return v6
	}
	return v4
}

var portsUsed atomic.Int32

// freePort returns a port that no other test of this process uses. No two are adjacent, which
// hostport-ccm would write into firewall rules as a range.
func freePort() int { return 21000 + 2*int(portsUsed.Add(1)) }

// bothProtocols returns Service ports of a number for TCP and UDP.
func bothProtocols(port int) []v1.ServicePort {
	return []v1.ServicePort{servicePort(v1.ProtocolTCP, port), servicePort(v1.ProtocolUDP, port)}
}

// wantBothOpen waits until backends answer a host at every address over TCP and UDP.
func wantBothOpen(t *testing.T, host string, port int, addresses ...string) {
	t.Helper()
	for _, p := range protocols {
		wantOpen(t, p.getFrom(host), "web", port, addresses...)
	}
}

// wantBothClosed checks that a host gets no answer over TCP or UDP.
func wantBothClosed(t *testing.T, host string, port int, addresses ...string) {
	t.Helper()
	for _, p := range protocols {
		wantClosed(t, p.getFrom(host), port, addresses...)
	}
}

// waitBothClosed waits until a host gets no answer over TCP or UDP.
func waitBothClosed(t *testing.T, host string, port int, addresses ...string) {
	t.Helper()
	for _, p := range protocols {
		waitClosed(t, p.getFrom(host), port, addresses...)
	}
}
