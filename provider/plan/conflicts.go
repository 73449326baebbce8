package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

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

// conflicts returns the ports that the Service does not get on the nodes that it selects. A port
// belongs to the oldest of the Services that claim it on a common node. A Service that does not
// get a port does not keep it from others. Foreign pods take a port away only if they have it on
// all selected nodes: otherwise the other nodes serve. Nodes in keptDespiteTaint count for the claims of
// other Services too: on such a node, who had the port before the taint still has it.
func (s Settings) conflicts(in Input, selected map[string]bool, keptDespiteTaint []*v1.Node) []Conflict {
	own := snapshot.Claim{Service: in.Service, Options: in.Options, Nodes: selected}
	var list []Conflict
	for _, port := range snapshot.PortsOf(in.Service) {
		reason, message := PortReserved, ""
		if slices.ContainsFunc(s.Reserved, func(r options.PortRange) bool { return r.Contains(port.Number) }) {
			message = "is reserved for the nodes themselves: use another port, or change loadBalancer.reservedPorts in the cloud config"
		} else {
			reason, message = PortConflict, findHolder(own, in.Cluster.Claims(port), keptDespiteTaint, in.ForeignPods[port])
		}
		if message != "" {
			list = append(list, Conflict{port, reason, fmt.Sprintf("port %s %s", port, message)})
		}
	}
	return list
}

// findHolder assigns a port to one claim after the other, the oldest first, until own's turn,
// and describes what keeps the port from own; empty: nothing does. claims may hold an earlier
// state of own, which own replaces.
func findHolder(own snapshot.Claim, claims []snapshot.Claim, keptDespiteTaint []*v1.Node, pods []*v1.Pod) string {
	inOrder := []snapshot.Claim{own}
	for _, c := range claims {
		if c.Service.UID == own.Service.UID {
			continue
		}
		if more := snapshot.SelectNodes(keptDespiteTaint, c.Options); len(more) > 0 {
			c.Nodes = maps.Clone(c.Nodes)
			maps.Copy(c.Nodes, snapshot.Names(more))
		}
		inOrder = append(inOrder, c)
	}
	slices.SortFunc(inOrder, snapshot.Claim.Compare)
	var holders []snapshot.Claim
	for _, c := range inOrder {
		message := occupiedEverywhere(c.Nodes, pods)
		overlaps := func(holder snapshot.Claim) bool {
			for name := range c.Nodes {
				if holder.Nodes[name] {
					return true
				}
			}
			return false
		}
		if i := slices.IndexFunc(holders, overlaps); i >= 0 {
			message = fmt.Sprintf("belongs to Service %s/%s, which is older, on nodes that both select: use another port, or select other nodes by annotation %s",
				holders[i].Service.Namespace, holders[i].Service.Name, options.NodeSelector)
		}
		if c.Service.UID == own.Service.UID {
			return message
		}
		if message == "" {
			holders = append(holders, c)
		}
	}
	return ""
}

// occupiedEverywhere names one of the pods if each of the nodes has one; otherwise it is empty.
func occupiedEverywhere(nodes map[string]bool, pods []*v1.Pod) string {
	var found []*v1.Pod
	on := map[string]bool{}
	for _, pod := range pods {
		if nodes[pod.Spec.NodeName] {
			found, on[pod.Spec.NodeName] = append(found, pod), true
		}
	}
	if len(found) == 0 || len(on) < len(nodes) {
		return ""
	}
	first := slices.MinFunc(found, func(a, b *v1.Pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return fmt.Sprintf("is a host port of pods on all nodes that the Service selects, one is %s/%s: use another port, or select other nodes by annotation %s",
		first.Namespace, first.Name, options.NodeSelector)
}

// withoutPorts returns svc without the ports that it does not get.
func withoutPorts(svc *v1.Service, conflicts []Conflict) *v1.Service {
	if len(conflicts) == 0 {
		return svc
	}
	served := *svc
	served.Spec.Ports = slices.DeleteFunc(snapshot.ServicePorts(svc), func(p v1.ServicePort) bool {
		return slices.ContainsFunc(conflicts, func(c Conflict) bool { return c.Port == snapshot.PortOf(p) })
	})
	return &served
}

// awaited returns the ports that proxies of other Services still have on all nodes of the plan.
// Those Services have given them up; their proxies have yet to drain.
func (p *Plan) awaited(proxies map[snapshot.Port][]*v1.Pod) []Conflict {
	var list []Conflict
	selected := snapshot.Names(p.Nodes)
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
	selected, nodes := snapshot.Names(p.Nodes), map[string]bool{}
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
