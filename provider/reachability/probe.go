package reachability

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/proxyclient"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// The counters of a proxy that are read: connections with the labels family, protocol and port, and
// syncs with the label result.
const (
	connectionsCounter = "hostport_nodeproxy_port_connections_total"
	syncsCounter       = "hostport_nodeproxy_syncs_total"
	syncedUnchanged    = "unchanged"
)

// The times that a node has to answer.
const (
	tcpTimeout = time.Second
	udpTimeout = 500 * time.Millisecond
)

// readingOf returns what a proxy has counted for the ports that it has on its node, in the IP families
// in which there is an address to connect to.
func readingOf(metrics map[string]*dto.MetricFamily, ports []snapshot.Port, addresses map[v1.IPFamily]string) reading {
	r := reading{connections: map[port]uint64{}}
	for _, metric := range metrics[syncsCounter].GetMetric() {
		if n := uint64(metric.GetCounter().GetValue()); proxyclient.Labels(metric)["result"] == syncedUnchanged {
			r.syncs += n
		} else {
			r.otherSyncs += n
		}
	}
	counted := map[port]uint64{}
	for _, metric := range metrics[connectionsCounter].GetMetric() {
		labels := proxyclient.Labels(metric)
		number, _ := strconv.ParseUint(labels["port"], 10, 16)
		p := port{group{v1.IPFamily(labels["family"]), v1.Protocol(labels["protocol"])}, int32(number)}
		counted[p] = uint64(metric.GetCounter().GetValue())
	}
	for family := range addresses {
		for _, own := range ports {
			p := port{group{family, own.Protocol}, own.Number}
			if n, found := counted[p]; found {
				r.connections[p] = n
			}
		}
	}
	return r
}

// addressesOf returns the addresses at which a node's ports are checked, by IP family: those that
// packets have when they arrive at the node. A cloud translates external IPv4 addresses. An address
// at which kube-proxy itself serves the Service is left out, as packets to it do not reach a proxy.
func addressesOf(node *v1.Node, svc *v1.Service) map[v1.IPFamily]string {
	addresses := map[v1.IPFamily]string{}
	for _, kind := range []v1.NodeAddressType{v1.NodeExternalIP, v1.NodeInternalIP} {
		for _, a := range node.Status.Addresses {
			ip := net.ParseIP(a.Address)
			switch {
			case ip == nil || a.Type != kind:
			case ip.To4() == nil:
				addresses[v1.IPv6Protocol] = a.Address
			case kind == v1.NodeInternalIP:
				addresses[v1.IPv4Protocol] = a.Address
			}
		}
	}
	for family, address := range addresses {
		if isServedByKubeProxy(svc, net.ParseIP(address)) {
			delete(addresses, family)
		}
	}
	return addresses
}

func isServedByKubeProxy(svc *v1.Service, ip net.IP) bool {
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		if (entry.IPMode == nil || *entry.IPMode == v1.LoadBalancerIPModeVIP) && ip.Equal(net.ParseIP(entry.IP)) {
			return true
		}
	}
	for _, external := range svc.Spec.ExternalIPs {
		if ip.Equal(net.ParseIP(external)) {
			return true
		}
	}
	return false
}

// connect sends the first packet of a connection, or an empty datagram, to a port and closes the
// connection at once.
func connect(ctx context.Context, p port, address string) attempt {
	network, limit := strings.ToLower(string(p.protocol)), tcpTimeout
	if p.protocol == v1.ProtocolUDP {
		limit = udpTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(address, strconv.Itoa(int(p.number))))
	if err != nil {
		return attempt{port: p, outcome: outcomeOf(err), remote: true}
	}
	defer conn.Close()
	remote := hostOf(conn.LocalAddr()) != hostOf(conn.RemoteAddr())
	if p.protocol != v1.ProtocolUDP {
		return attempt{port: p, outcome: answered, remote: remote}
	}
	return attempt{port: p, outcome: sendDatagram(ctx, conn), remote: remote}
}

// sendDatagram sends an empty datagram and waits for an ICMP error or an answer.
func sendDatagram(ctx context.Context, conn net.Conn) outcome {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return aborted
		}
	}
	_, err := conn.Write(nil)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil {
		return outcomeOf(err)
	}
	return answered
}

// outcomeOf returns the outcome for an error. Only the node itself refuses a connection; that a host
// or network is unreachable is also what this machine says when it has no route.
func outcomeOf(err error) outcome {
	timeout := net.Error(nil)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.As(err, &timeout) && timeout.Timeout():
		return silent
	}
	return aborted
}

func hostOf(address net.Addr) string {
	host, _, _ := net.SplitHostPort(address.String())
	return host
}

// portsOf returns the ports that both a Service and its proxy have.
func portsOf(svc *v1.Service, proxy *v1.Pod) []snapshot.Port {
	wanted := map[snapshot.Port]bool{}
	for _, p := range snapshot.PortsOf(svc) {
		wanted[p] = true
	}
	var ports []snapshot.Port
	for _, p := range snapshot.HostPorts(proxy.Spec) {
		if wanted[p] {
			ports = append(ports, p)
		}
	}
	return ports
}

// withdrawn reports whether the status of a Service shows no address of a node in the given families.
func withdrawn(svc *v1.Service, node *v1.Node, families []v1.IPFamily) bool {
	for _, f := range families {
		if publish.ShowsFamily(svc.Status.LoadBalancer, node, f) {
			return false
		}
	}
	return true
}
