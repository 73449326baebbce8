// Package publish decides which addresses a Service's status shows, from the
// plan and from what is observed. It is pure. Writing the status is the
// service controller's business.
//
// An address in a status goes straight into DNS, so it has to be true: its
// node is healthy and its proxy answers. But never is less published than is
// known: while nothing at all is known to serve, what was published stays as
// long as it may serve.
package publish

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"k8s.io/api/core/v1"
	servicecontroller "k8s.io/cloud-provider/controllers/service"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Input is all that the status depends on.
type Input struct {
	// Nodes serve the Service by plan.
	Nodes []*v1.Node
	// Sets are the Service's proxies.
	Sets []Set
	// Direct are the names of the nodes where kube-proxy is to serve the
	// Service, without a proxy.
	Direct map[string]bool
	// Local keeps to nodes with an endpoint, see preferLocal.
	Local bool
	// Endpoints are the names of the nodes with a ready endpoint.
	Endpoints map[string]bool
	// Others are nodes that do not serve the Service by plan.
	Others []*v1.Node
	// Previous is the status as it is.
	Previous v1.LoadBalancerStatus
	// Families of the Service, the preferred one first. Empty means both.
	Families  []v1.IPFamily
	Addresses options.Addresses
	// MaxNodes bounds how many nodes are published; 0 is no bound.
	MaxNodes int
	// IPMode of the addresses. Only Direct may be empty: the API server would
	// put VIP for an empty one, and each sync would see a difference.
	IPMode IPMode
	// Ports go with every address; nil if there is nothing to say about them.
	Ports []v1.PortStatus
	Now   time.Time
}

// IPMode tells kube-proxy how to treat addresses.
type IPMode struct {
	// ExternalIPv4 is of addresses that a cloud may translate on their way to a
	// node, Other of those that nodes bear themselves.
	ExternalIPv4, Other v1.LoadBalancerIPMode
	// Direct is of all addresses of nodes that are served directly; empty: no
	// other than without.
	Direct v1.LoadBalancerIPMode
}

// Status returns what to publish. It is never nil, and sorted: first by the
// Service's order of IP families, then by address.
func Status(in Input) *v1.LoadBalancerStatus {
	serving := nodesWith(in, func(node *v1.Node) bool {
		return healthy(node) && (serves(in, node) || grows(in, node))
	})
	if serving = preferLocal(in, serving); len(serving) == 0 {
		serving = keep(in)
	}
	return &v1.LoadBalancerStatus{Ingress: ingress(in, limit(serving, in))}
}

// preferLocal leaves, for policy Local, the nodes with a ready endpoint. While
// there is none on any of them, those that are published stay, or if there are
// none all: DNS is not to flap when a Deployment is replaced.
func preferLocal(in Input, serving []*v1.Node) []*v1.Node {
	if !in.Local {
		return serving
	}
	if local := filter(serving, func(node *v1.Node) bool { return in.Endpoints[node.Name] }); len(local) > 0 {
		return local
	}
	if stay := filter(serving, func(node *v1.Node) bool { return isPublished(in, node) }); len(stay) > 0 {
		return stay
	}
	return serving
}

// keep returns what stays published while no node is known to serve. The first
// of these that there are:
//   - published nodes that are healthy, as their proxies may just be replaced,
//     and those that are to be removed, as long as they are Ready and serve;
//   - published nodes that are not leaving: one that lost the API server may
//     still forward;
//   - any nodes that are to be removed, as long as they are Ready and serve;
//   - published nodes that were deselected, until one of those selected in
//     their place serves. If none can, they go;
//   - nodes that serve some of the ports.
func keep(in Input) []*v1.Node {
	published := nodesWith(in, func(node *v1.Node) bool { return isPublished(in, node) })
	staying := func(node *v1.Node) bool { return !leaving(node) }
	forwarding := func(node *v1.Node) bool {
		return ready(node) && !tainted(node, v1.TaintNodeOutOfService) && servesSome(in, node)
	}
	alive := func(node *v1.Node) bool { return healthy(node) || forwarding(node) }
	for _, ok := range []func(*v1.Node) bool{alive, staying} {
		if kept := filter(published, ok); len(kept) > 0 {
			return kept
		}
	}
	if len(in.Previous.Ingress) == 0 {
		return nil
	}
	forwarders := nodesWith(in, forwarding)
	if removed := filter(forwarders, leaving); len(removed) > 0 {
		return removed
	}
	if successors := nodesWith(in, healthy); len(successors) == 0 {
		return nil
	}
	deselected := filter(in.Others, func(node *v1.Node) bool { return isPublished(in, node) && healthy(node) })
	if len(deselected) > 0 {
		return deselected
	}
	return forwarders
}

// nodesWith returns the nodes that have something to publish and fulfil ok.
func nodesWith(in Input, ok func(*v1.Node) bool) []*v1.Node {
	return filter(in.Nodes, func(node *v1.Node) bool { return len(addresses(in, node)) > 0 && ok(node) })
}

func filter[T any](list []T, ok func(T) bool) []T {
	var kept []T
	for _, item := range list {
		if ok(item) {
			kept = append(kept, item)
		}
	}
	return kept
}

// healthy says that a node is Ready and not about to go.
func healthy(node *v1.Node) bool { return ready(node) && !leaving(node) }

func ready(node *v1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

// leaving says that a node is on its way out, or declared dead by its admin.
func leaving(node *v1.Node) bool {
	return node.DeletionTimestamp != nil || tainted(node, servicecontroller.ToBeDeletedTaint) || tainted(node, v1.TaintNodeOutOfService)
}

func tainted(node *v1.Node, key string) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t v1.Taint) bool { return t.Key == key })
}

// serves says that all ports are served on a node.
func serves(in Input, node *v1.Node) bool {
	return in.Direct[node.Name] || AllReady(in.Sets, node.Name)
}

// readyOn says whether one of the proxies is Ready on a node.
func readyOn(pods []*v1.Pod, node string) bool {
	return slices.ContainsFunc(pods, func(pod *v1.Pod) bool { return pod.Spec.NodeName == node && Ready(pod) })
}

// Running returns the names of the nodes that have a proxy, ready or not, which
// is not being stopped.
func Running(pods []*v1.Pod) map[string]bool {
	nodes := map[string]bool{}
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && pod.Spec.NodeName != "" {
			nodes[pod.Spec.NodeName] = true
		}
	}
	return nodes
}

// Linger says whether there are proxies still, ready or not. One on a node that is
// not Ready does not count: nobody says when it has ended, perhaps for ever.
func Linger(pods []*v1.Pod, nodes []*v1.Node) bool {
	lives := Names(filter(nodes, ready))
	return slices.ContainsFunc(pods, func(pod *v1.Pod) bool { return lives[pod.Spec.NodeName] })
}

// Ready says whether a proxy forwards. One that is being stopped does not.
func Ready(pod *v1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	})
}

// isPublished says whether the previous status shows an address of a node,
// whichever of its addresses are wanted now.
func isPublished(in Input, node *v1.Node) bool { return shows(in.Previous, node) }

// ingress writes the nodes' addresses in the form and order of a status.
func ingress(in Input, nodes []*v1.Node) []v1.LoadBalancerIngress {
	var all []address
	for _, node := range nodes {
		all = append(all, filter(addresses(in, node), func(a address) bool { return answersOn(in, node, a.ip) })...)
	}
	slices.SortFunc(all, func(a, b address) int {
		if c := cmp.Compare(rank(in.Families, a.ip), rank(in.Families, b.ip)); c != 0 {
			return c
		}
		return a.ip.Compare(b.ip)
	})
	all = slices.CompactFunc(all, func(a, b address) bool { return a.ip == b.ip })
	var list []v1.LoadBalancerIngress
	for _, a := range all {
		list = append(list, v1.LoadBalancerIngress{IP: a.ip.String(), IPMode: &a.mode, Ports: in.Ports})
	}
	return list
}

// rank is the place of an address's family in the Service's order.
func rank(families []v1.IPFamily, ip netip.Addr) int { return slices.Index(families, family(ip)) }

// Narrow is for when ports may be closed: it returns a status without the
// addresses that were not published before. Where none would remain, it depends
// on whose the published ones are: if of the nodes, they are known to be bad, and
// whatever takes their place is no worse; if of nobody here, perhaps of another
// load balancer, they stay.
func Narrow(status *v1.LoadBalancerStatus, previous v1.LoadBalancerStatus, nodes []*v1.Node) *v1.LoadBalancerStatus {
	kept := slices.DeleteFunc(slices.Clone(status.Ingress), func(entry v1.LoadBalancerIngress) bool {
		return !slices.ContainsFunc(previous.Ingress, func(p v1.LoadBalancerIngress) bool { return p.IP == entry.IP })
	})
	switch {
	case len(kept) > 0:
		return &v1.LoadBalancerStatus{Ingress: kept}
	case len(status.Ingress) > 0 && len(Shown(previous, nodes)) > 0:
		return status
	}
	return previous.DeepCopy()
}
