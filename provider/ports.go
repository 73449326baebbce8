package provider

import (
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// heldPorts returns the nodes on which Services have the Service's ports now: where they have
// proxies, or kube-proxy serves them. It leaves out ports that no other Service claims.
func (r *reconciliation) heldPorts() map[snapshot.Port]map[types.UID]map[string]bool {
	held := map[snapshot.Port]map[types.UID]map[string]bool{}
	for _, port := range snapshot.PortsOf(r.svc) {
		claims := r.cluster.Claims(port)
		if len(claims) < 2 && (len(claims) == 0 || claims[0].Service.UID == r.svc.UID) {
			continue
		}
		held[port] = map[types.UID]map[string]bool{}
		for _, c := range claims {
			nodes := r.proxies.Held(c.Service, port, r.cluster.Nodes)
			holder := c.Service // Its status may have changed since the snapshot.
			if latest := r.services.Latest(nameOf(holder)); latest != nil && latest.UID == holder.UID {
				holder = latest
			}
			if current := r.direct.Current(holder, r.cluster.Nodes); current.Ports.Has(port) {
				for node := range current.Nodes {
					nodes[node] = true
				}
			}
			held[port][c.Service.UID] = nodes
		}
	}
	return held
}

// occupants returns the Services for which kube-proxy takes packets to the Service's ports, also
// where a proxy of the Service has its host port: kube-proxy's rules come first, in mode nftables at
// least once it was restarted.
func (r *reconciliation) occupants() map[snapshot.Port][]snapshot.Occupant {
	list := map[snapshot.Port][]snapshot.Occupant{}
	for _, port := range snapshot.PortsOf(r.svc) {
		for _, o := range r.cluster.Occupants(port) {
			if o.Service.UID != r.svc.UID {
				list[port] = append(list[port], o)
			}
		}
	}
	return list
}

// foreignPods returns the foreign pods that have ports of the Service. A pod that asks for a port
// that is already served on its node does not have it. Where a proxy is ready, the kubelet rejects
// the pod. Where kube-proxy serves, the pod runs, and is shadowed; but in mode nftables it may have
// the port: of the pod's rules and kube-proxy's, those whose base chain was made last come first.
func (r *reconciliation) foreignPods() (occupying, shadowed map[snapshot.Port][]*v1.Pod) {
	asking := r.foreign.PodsWithPortsOf(r.svc)
	if len(asking) == 0 {
		return nil, nil
	}
	served, mode := r.proxies.ServedPorts(r.svc), r.direct.Environment().KubeProxy
	occupying, shadowed = map[snapshot.Port][]*v1.Pod{}, map[snapshot.Port][]*v1.Pod{}
	for port, pods := range asking {
		for _, pod := range pods {
			switch node := pod.Spec.NodeName; {
			case r.current.Nodes[node] && r.current.Ports.Has(port) && mode != config.KubeProxyNFTables:
				shadowed[port] = append(shadowed[port], pod)
			case !served[node][port]:
				occupying[port] = append(occupying[port], pod)
			}
		}
	}
	return occupying, shadowed
}
