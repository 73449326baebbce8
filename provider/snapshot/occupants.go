package snapshot

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

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
func (c *Cluster) Occupants(port Port) []Occupant { return c.occupants[port] }

// addOccupants indexes the ports of nodes that kube-proxy serves. The addresses in the status of
// a claimant do not count, as its ports are claims, nor those of a mirror or of a Service that we
// still clean up.
func (c *Cluster) addOccupants(services, claimants []*v1.Service) {
	ours := map[types.UID]bool{}
	for _, svc := range claimants {
		ours[svc.UID] = true
	}
	owners := map[netip.Addr]string{}
	for _, node := range c.Nodes {
		for _, address := range node.Status.Addresses {
			if ip, err := netip.ParseAddr(address.Address); err == nil {
				owners[ip.Unmap()] = node.Name
			}
		}
	}
	for _, svc := range services {
		for _, o := range occupations(svc) {
			if o.field == statusField && (ours[svc.UID] || isOurs(svc)) {
				continue
			}
			node, known := owners[o.address]
			if o.address.IsValid() && !known {
				continue
			}
			c.occupants[o.port] = append(c.occupants[o.port], Occupant{svc, o.field, node})
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
// leaves out what kube-proxy ignores: headless Services and addresses of ipMode Proxy.
func occupations(svc *v1.Service) []occupation {
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
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		if entry.IPMode == nil || *entry.IPMode == v1.LoadBalancerIPModeVIP {
			add(entry.IP, statusField)
		}
	}
	return list
}

// OccupiedPorts returns the ports that kube-proxy serves for a Service on any address but its
// cluster IPs.
func OccupiedPorts(svc *v1.Service) []Port {
	var ports []Port
	for _, o := range occupations(svc) {
		ports = append(ports, o.port)
	}
	return ports
}
