package plan

import (
	"fmt"
	"slices"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Conflict is a port on which a Service is not served, for good or for now.
type Conflict struct {
	Port snapshot.Port
	// Reason is PortReserved or PortConflict.
	Reason string
	// Message names the port, the holder, and what to do. It stays the same while nodes come
	// and go.
	Message string
}

// Reasons of conflicts.
const (
	// PortReserved is for ports that the cloud config reserves for the nodes.
	PortReserved = "PortReserved"
	// PortConflict is for ports that another Service or a pod has.
	PortConflict = "PortConflict"
)

// conflicts returns the ports that the Service does not get on the nodes that it selects, and the
// nodes on which other Services keep ports that it gets elsewhere, by name. A Service that does not
// get a port does not keep it from others. What others have on some of the selected nodes only does
// not take the port away: the other nodes serve. Nodes in keptDespiteTaint count for the claims of
// other Services too: on such a node, who had the port before the taint still has it.
func (s Settings) conflicts(in Input, selected map[string]bool, keptDespiteTaint []*v1.Node) (list []Conflict, kept map[string][]string) {
	own := snapshot.Claim{Service: in.Service, Options: in.Options, Nodes: selected}
	kept = map[string][]string{}
	for _, port := range snapshot.PortsOf(in.Service) {
		if message := s.Reserved.Refusal(port.Protocol, port.Number); message != "" {
			list = append(list, Conflict{port, PortReserved, fmt.Sprintf("port %s %s", port, message)})
			continue
		}
		claims := in.Cluster.Claims(port)
		if isUncontested(claims, own) && len(in.ForeignPods[port]) == 0 && len(in.Occupants[port]) == 0 {
			continue
		}
		a := allocation{port: port, held: in.Held[port], pods: in.ForeignPods[port], occupants: in.Occupants[port], has: map[string]*v1.Service{}}
		a.allocate(a.inOrder(own, claims, keptDespiteTaint), own)
		if a.refusal != "" {
			list = append(list, Conflict{port, PortConflict, fmt.Sprintf("port %s %s", port, a.refusal)})
			continue
		}
		for node, holder := range a.has {
			if selected[node] && holder.UID != own.Service.UID {
				kept[node] = append(kept[node], fmt.Sprintf("node %s does not serve the Service, as Service %s/%s has port %s there: use another port, or deselect the node by annotation %s", node, holder.Namespace, holder.Name, port, options.NodeSelector))
			}
		}
	}
	return list, kept
}

// isUncontested reports whether there is no other claim than own.
func isUncontested(claims []snapshot.Claim, own snapshot.Claim) bool {
	return !slices.ContainsFunc(claims, func(c snapshot.Claim) bool { return c.Service.UID != own.Service.UID })
}

// occupiedNodes returns sentences about the nodes where kube-proxy takes packets to the Service's
// ports for another Service, by the node's name.
func (in Input) occupiedNodes(served *v1.Service) map[string][]string {
	nodes := map[string][]string{}
	for _, port := range snapshot.PortsOf(served) {
		for _, o := range in.Occupants[port] {
			nodes[o.Node] = append(nodes[o.Node], fmt.Sprintf("node %s does not serve the Service, as kube-proxy takes port %s there for %s of Service %s/%s: use another port, or deselect the node by annotation %s", o.Node, port, o.Field, o.Service.Namespace, o.Service.Name, options.NodeSelector))
		}
	}
	return nodes
}

// withoutPorts returns svc without the ports that it does not get.
func withoutPorts(svc *v1.Service, conflicts []Conflict) *v1.Service {
	if len(conflicts) == 0 {
		return svc
	}
	lost := map[snapshot.Port]bool{}
	for _, c := range conflicts {
		lost[c.Port] = true
	}
	served := *svc
	served.Spec.Ports = slices.DeleteFunc(snapshot.ServicePorts(svc), func(p v1.ServicePort) bool { return lost[snapshot.PortOf(p)] })
	return &served
}

// awaited returns the ports that proxies of other Services still have on all nodes of the plan.
// Those Services have given them up; their proxies have yet to drain.
func (p *Plan) awaited(proxies map[snapshot.Port][]*v1.Pod) []Conflict {
	if len(proxies) == 0 {
		return nil
	}
	var list []Conflict
	selected := p.NodeNames
	for _, port := range snapshot.PortsOf(p.Service) {
		on := map[string]bool{}
		var owners []string
		for _, pod := range proxies[port] {
			if selected[pod.Spec.NodeName] {
				on[pod.Spec.NodeName] = true
				owners = append(owners, ServiceOf(pod).String())
			}
		}
		if len(on) > 0 && len(on) == len(selected) {
			list = append(list, Conflict{port, PortConflict, fmt.Sprintf("port %s is served as soon as the proxies of Service %s, which has given it up, have terminated", port, slices.Min(owners))})
		}
	}
	return list
}

// occupied returns the nodes of the plan where a foreign pod has a port of the Service, and a
// sentence about each of these pods' ports.
func (p *Plan) occupied(pods map[snapshot.Port][]*v1.Pod) (nodes map[string]bool, sentences []string) {
	if len(pods) == 0 {
		return nil, nil
	}
	selected, nodes := p.NodeNames, map[string]bool{}
	for _, port := range snapshot.PortsOf(p.Service) {
		for _, pod := range pods[port] {
			if node := pod.Spec.NodeName; selected[node] {
				nodes[node] = true
				sentences = append(sentences, fmt.Sprintf("node %s does not serve the Service while pod %s/%s has its host port %s, and serves it once the port is free; delete that pod, use another port, or deselect the node by annotation %s", node, pod.Namespace, pod.Name, port, options.NodeSelector))
			}
		}
	}
	slices.Sort(sentences)
	return nodes, sentences
}

// Shadowed returns a sentence about each foreign pod that asks for a host port of a node where
// kube-proxy already serves a Service on that port.
func Shadowed(pods map[snapshot.Port][]*v1.Pod) []string {
	var sentences []string
	for port, list := range pods {
		for _, pod := range list {
			sentences = append(sentences, fmt.Sprintf("pod %s/%s asks for host port %s of node %s, where kube-proxy serves this Service: either the pod or the Service does not get the packets; use another port for the pod, or deselect the node by annotation %s", pod.Namespace, pod.Name, port, pod.Spec.NodeName, options.NodeSelector))
		}
	}
	slices.Sort(sentences)
	return sentences
}
