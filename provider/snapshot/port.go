package snapshot

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/api/core/v1"
)

// Port is a port of a node, by protocol and number.
type Port struct {
	Protocol v1.Protocol
	Number   int32
}

// String writes "80/TCP".
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Protocol) }

// Compare orders ports by number, then by protocol.
func (p Port) Compare(other Port) int {
	return cmp.Or(cmp.Compare(p.Number, other.Number), cmp.Compare(p.Protocol, other.Protocol))
}

// ServicePorts returns a Service's ports, sorted by Port.Compare, each protocol and number
// once, with an empty protocol written as TCP. The order in which a user lists ports must
// not change what is derived from them.
func ServicePorts(svc *v1.Service) []v1.ServicePort {
	sorted := slices.Clone(svc.Spec.Ports)
	for i := range sorted {
		sorted[i].Protocol = cmp.Or(sorted[i].Protocol, v1.ProtocolTCP)
	}
	compare := func(a, b v1.ServicePort) int { return PortOf(a).Compare(PortOf(b)) }
	slices.SortFunc(sorted, compare)
	return slices.CompactFunc(sorted, func(a, b v1.ServicePort) bool { return compare(a, b) == 0 })
}

// PortOf returns the node's port that serves a Service port.
func PortOf(p v1.ServicePort) Port { return Port{cmp.Or(p.Protocol, v1.ProtocolTCP), p.Port} }

// PortsOf returns the node's ports that serve a Service, sorted, each once.
func PortsOf(svc *v1.Service) []Port {
	var ports []Port
	for _, p := range ServicePorts(svc) {
		ports = append(ports, PortOf(p))
	}
	return ports
}

// HostPorts returns the host ports of a pod's containers, sorted. Each container port of the pod
// must have one.
func HostPorts(pod v1.PodSpec) []Port {
	var ports []Port
	for _, container := range pod.Containers {
		for _, p := range container.Ports {
			ports = append(ports, Port{cmp.Or(p.Protocol, v1.ProtocolTCP), p.HostPort})
		}
	}
	slices.SortFunc(ports, Port.Compare)
	return ports
}
