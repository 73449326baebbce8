package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Conflict is a port that a Service wants and does not get.
type Conflict struct {
	Protocol v1.Protocol
	Port     int32
	Reason   string
	// Message names the port, who has it, and the ways out. It does not change
	// while nodes come and go.
	Message string
}

// Reasons of conflicts.
const (
	// PortReserved is for ports that the cloud config keeps for the nodes.
	PortReserved = "PortReserved"
	// PortTaken is for ports that another Service or a pod has.
	PortTaken = "PortTaken"
)

// Rivals is who else may have or want a Service's ports.
type Rivals struct {
	// Services are all that we serve, the one in question or not.
	Services []*v1.Service
	// Defaults of the Services' options.
	Defaults options.Options
	// Pods are those of others that have host ports, by protocol and port as
	// PortKey writes them.
	Pods map[string][]*v1.Pod
	// Proxies are those of other Services that have its ports where it has no
	// proxy that is ready, by the same keys.
	Proxies map[string][]*v1.Pod
	// Running names the nodes where a proxy of the Service in question runs, or
	// kube-proxy serves it.
	Running map[string]bool
}

// PortKey names a port of a node.
func PortKey(protocol v1.Protocol, port int32) string { return fmt.Sprintf("%d/%s", port, protocol) }

// HostPorts lists the ports that a pod has on its node, by PortKey, sorted.
func HostPorts(pod v1.PodSpec) []string {
	var keys []string
	for _, container := range pod.Containers {
		for _, p := range container.Ports {
			keys = append(keys, PortKey(cmp.Or(p.Protocol, v1.ProtocolTCP), p.HostPort))
		}
	}
	slices.Sort(keys)
	return keys
}

// PortKeys lists a Service's ports by their keys, sorted and each once.
func PortKeys(svc *v1.Service) []string {
	var keys []string
	for _, p := range Ports(svc) {
		keys = append(keys, PortKey(p.Protocol, p.Port))
	}
	return keys
}

// Conflicts returns the ports that svc does not get, and why. A port belongs to
// the oldest of the Services that want it on a common node. What a Service does
// not get, it does not keep from others. Pods of others take a port away only
// if they have it on all nodes of the Service: else the remaining nodes serve.
func (s Settings) Conflicts(svc *v1.Service, o options.Options, nodes []*v1.Node, rivals Rivals) []Conflict {
	var list []Conflict
	for _, p := range Ports(svc) {
		key := PortKey(p.Protocol, p.Port)
		reason, message := PortReserved, s.reserved(p.Port)
		if message == "" {
			reason, message = PortTaken, holder(svc, claims(svc, o, nodes, key, rivals), rivals.Pods[key])
		}
		if message != "" {
			list = append(list, Conflict{p.Protocol, p.Port, reason, fmt.Sprintf("port %s %s", key, message)})
		}
	}
	return list
}

func (s Settings) reserved(port int32) string {
	for _, r := range s.Reserved {
		if r.Contains(port) {
			return "is reserved for the nodes themselves: use another port, or change loadBalancer.reservedPorts in the cloud config"
		}
	}
	return ""
}

// claim is a Service that wants a certain port on some nodes.
type claim struct {
	service *v1.Service
	nodes   map[string]bool
}

// claims lists all that want a port, the oldest first, svc among them as it is
// given. One whose annotations cannot be read may have proxies on any node.
func claims(svc *v1.Service, o options.Options, nodes []*v1.Node, key string, rivals Rivals) []claim {
	list := []claim{{svc, names(chooseNodes(nodes, o))}}
	for _, other := range rivals.Services {
		if other.UID == svc.UID || !slices.Contains(PortKeys(other), key) {
			continue
		}
		theirs, err := options.Parse(other.Annotations, rivals.Defaults)
		if err != nil {
			theirs = rivals.Defaults
		}
		list = append(list, claim{other, names(chooseNodes(nodes, theirs))})
	}
	slices.SortFunc(list, func(a, b claim) int { return older(a.service, b.service) })
	return list
}

func older(a, b *v1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
}

func names(nodes []*v1.Node) map[string]bool {
	set := map[string]bool{}
	for _, node := range nodes {
		set[node.Name] = true
	}
	return set
}

// holder gives the port to one claim after the other, until it is svc's turn,
// and returns who keeps it from svc.
func holder(svc *v1.Service, claims []claim, pods []*v1.Pod) string {
	var holders []claim
	for _, c := range claims {
		message := c.heldByPods(pods)
		if i := slices.IndexFunc(holders, c.overlaps); i >= 0 {
			message = fmt.Sprintf("belongs to Service %s/%s, which is older, on nodes that both select: use another port, or select other nodes by annotation %s",
				holders[i].service.Namespace, holders[i].service.Name, options.NodeSelector)
		}
		if c.service.UID == svc.UID {
			return message
		}
		if message == "" {
			holders = append(holders, c)
		}
	}
	return ""
}

func (c claim) overlaps(other claim) bool {
	for name := range c.nodes {
		if other.nodes[name] {
			return true
		}
	}
	return false
}

// heldByPods names a pod if pods have the port on every node of the claim.
func (c claim) heldByPods(pods []*v1.Pod) string {
	var held []*v1.Pod
	on := map[string]bool{}
	for _, pod := range pods {
		if c.nodes[pod.Spec.NodeName] {
			held, on[pod.Spec.NodeName] = append(held, pod), true
		}
	}
	if len(held) == 0 || len(on) < len(c.nodes) {
		return ""
	}
	first := slices.MinFunc(held, func(a, b *v1.Pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return fmt.Sprintf("is a host port of pods on all nodes that the Service selects, one is %s/%s: use another port, or select other nodes by annotation %s",
		first.Namespace, first.Name, options.NodeSelector)
}

// Unserved are all ports of the Service that nobody serves for it.
func (p *Plan) Unserved() []Conflict { return slices.Concat(p.Conflicts, p.Awaited) }

// awaited returns the ports that proxies of other Services, which have given them
// up, have until they have drained.
func awaited(svc *v1.Service, nodes []*v1.Node, proxies map[string][]*v1.Pod) []Conflict {
	var list []Conflict
	chosen := names(nodes)
	for _, p := range Ports(svc) {
		key, on := PortKey(p.Protocol, p.Port), map[string]bool{}
		var holders []string
		for _, pod := range proxies[key] {
			if chosen[pod.Spec.NodeName] {
				on[pod.Spec.NodeName] = true
				holders = append(holders, ServiceOf(pod).String())
			}
		}
		if len(on) > 0 && len(on) == len(chosen) {
			list = append(list, Conflict{p.Protocol, p.Port, PortTaken, fmt.Sprintf("port %s is served as soon as the proxies of Service %s, which has given it up, have ended", key, slices.Min(holders))})
		}
	}
	return list
}

// Without returns svc without the ports that it does not get.
func Without(svc *v1.Service, conflicts []Conflict) *v1.Service {
	if len(conflicts) == 0 {
		return svc
	}
	served := *svc
	served.Spec.Ports = slices.DeleteFunc(Ports(svc), func(p v1.ServicePort) bool {
		return slices.ContainsFunc(conflicts, func(c Conflict) bool { return c.Port == p.Port && c.Protocol == p.Protocol })
	})
	return &served
}

// heldNodes returns the nodes of a Service where a pod of others has one of its
// ports, and why these do not serve.
func heldNodes(svc *v1.Service, nodes []*v1.Node, pods map[string][]*v1.Pod) (map[string]bool, []string) {
	chosen, held := names(nodes), map[string]bool{}
	var sentences []string
	for _, key := range PortKeys(svc) {
		for _, pod := range pods[key] {
			if node := pod.Spec.NodeName; chosen[node] {
				held[node] = true
				sentences = append(sentences, fmt.Sprintf("node %s does not serve the Service while pod %s/%s has its host port %s, and will by itself once the port is free; remove that pod, use another port, or leave the node out by annotation %s", node, pod.Namespace, pod.Name, key, options.NodeSelector))
			}
		}
	}
	slices.Sort(sentences)
	return held, sentences
}

// Late are sentences about pods of others that ask for a host port, by PortKey,
// of a node where kube-proxy serves a Service on it already.
func Late(pods map[string][]*v1.Pod) []string {
	var sentences []string
	for key, list := range pods {
		for _, pod := range list {
			sentences = append(sentences, fmt.Sprintf("pod %s/%s asks for host port %s of node %s, where this Service is served without a proxy: it does not get the packets, or takes them away; give it another port, or leave the node out by annotation %s", pod.Namespace, pod.Name, key, pod.Spec.NodeName, options.NodeSelector))
		}
	}
	slices.Sort(sentences)
	return sentences
}
