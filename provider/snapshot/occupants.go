package snapshot

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Occupant is a Service for which kube-proxy takes the packets to a port of nodes: as a node port,
// or to an address of the node that the Service has as its own.
type Occupant struct {
	Service *v1.Service
	// Field is the path of the field that says so.
	Field string
	// Node is the name of the node; empty means all nodes.
	Node string
}

// Occupants returns the Services for which kube-proxy takes the packets to a port.
func (c *Cluster) Occupants(port Port) []Occupant {
	return slices.Concat(c.Services.everywhere[port], c.occupants[port])
}

// addressOccupant is an Occupant, without node, of a port on an address.
type addressOccupant struct {
	Occupant
	port    Port
	address netip.Addr
}

// addOccupants indexes the ports of nodes that kube-proxy serves for a Service. The addresses in the
// status of one that is ours do not count: the ports of a claimant are claims, and a mirror, or a
// Service that we still clean up, has them from us.
func (s *Services) addOccupants(svc *v1.Service, ours bool) {
	for _, o := range occupations(svc, !ours) {
		occupant := Occupant{Service: svc, Field: o.field}
		if o.address.IsValid() {
			s.onAddresses = append(s.onAddresses, addressOccupant{occupant, o.port, o.address})
		} else {
			s.everywhere[o.port] = append(s.everywhere[o.port], occupant)
		}
	}
}

// addOccupants indexes the ports that kube-proxy serves on addresses of nodes, of whatever type.
func (c *Cluster) addOccupants() {
	for _, o := range c.Services.onAddresses {
		if nodes := c.byAddress[o.address]; len(nodes) > 0 {
			o.Node = nodes[len(nodes)-1].Name
			c.occupants[o.port] = append(c.occupants[o.port], o.Occupant)
		}
	}
}

// isOurs reports whether a Service is a mirror, or has been ours and is not cleaned up yet.
func isOurs(svc *v1.Service) bool {
	prefixed := func(name string) bool { return strings.HasPrefix(name, options.Prefix) }
	return svc.Spec.LoadBalancerClass != nil && prefixed(*svc.Spec.LoadBalancerClass) || slices.ContainsFunc(svc.Finalizers, prefixed)
}

// occupation is a port on an address that kube-proxy serves for a Service. An invalid address
// means all addresses of all nodes.
type occupation struct {
	port    Port
	address netip.Addr
	field   string
}

const statusField = "status.loadBalancer.ingress"

// occupations returns the ports that kube-proxy serves for a Service outside of its cluster IPs. It
// leaves out what kube-proxy ignores: headless Services and addresses of ipMode Proxy. The addresses in
// its status are left out too unless withStatus is true.
func occupations(svc *v1.Service, withStatus bool) []occupation {
	if svc.Spec.Type == v1.ServiceTypeExternalName || svc.Spec.ClusterIP == v1.ClusterIPNone {
		return nil
	}
	var list []occupation
	for _, p := range svc.Spec.Ports {
		if p.NodePort > 0 {
			list = append(list, occupation{Port{PortOf(p).Protocol, p.NodePort}, netip.Addr{}, "spec.ports[].nodePort"})
		}
	}
	if port := svc.Spec.HealthCheckNodePort; port > 0 {
		list = append(list, occupation{Port{v1.ProtocolTCP, port}, netip.Addr{}, "spec.healthCheckNodePort"})
	}
	add := func(address, field string) {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			return
		}
		for _, port := range PortsOf(svc) {
			list = append(list, occupation{port, ip.Unmap(), field})
		}
	}
	for _, address := range svc.Spec.ExternalIPs {
		add(address, "spec.externalIPs")
	}
	if !withStatus {
		return list
	}
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		if entry.IPMode == nil || *entry.IPMode == v1.LoadBalancerIPModeVIP {
			add(entry.IP, statusField)
		}
	}
	return list
}

// OccupiedPorts returns the ports that kube-proxy serves for a Service on any address but its
// cluster IPs, each once.
func OccupiedPorts(svc *v1.Service) []Port {
	known := map[Port]bool{}
	var ports []Port
	for _, o := range occupations(svc, true) {
		if !known[o.port] {
			known[o.port], ports = true, append(ports, o.port)
		}
	}
	return ports
}
