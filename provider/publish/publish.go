// Package publish computes which addresses a Service's status shows, from the plan and from what
// is observed, and the Service's conditions. It is pure. The service controller writes the status.
//
// Consumers copy the addresses into DNS. So an address is published only while its node is healthy
// and serves the Service. While no node is known to serve, the last addresses stay as long as they
// may serve.
package publish

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Input is what a Service's status depends on.
type Input struct {
	// Nodes are those that the plan selects.
	Nodes []*v1.Node
	// Others are other nodes: at least those that Previous shows an address of.
	Others []*v1.Node
	// Sets are the Service's proxy sets as observed.
	Sets []ProxySet
	// Direct are the names of the nodes where kube-proxy is to serve the Service.
	Direct map[string]bool
	// Served are the names of the nodes where kube-proxy serves the Service now.
	Served map[string]bool
	// Local restricts the addresses to nodes with an endpoint, see preferLocal.
	Local bool
	// Endpoints are the names of the nodes with a ready endpoint. ServingEndpoints has also those
	// with an endpoint that still serves while it is terminating.
	Endpoints, ServingEndpoints map[string]bool
	// Unreached are the IP families in which packets to the ports of a node do not reach its proxy, by
	// the nodes' names.
	Unreached map[string][]v1.IPFamily
	// Previous is the status as it is.
	Previous v1.LoadBalancerStatus
	// Families are the Service's IP families, the preferred one first. Empty means both.
	Families  []v1.IPFamily
	Addresses options.Addresses
	// MaxNodes limits how many nodes are published; 0 means no limit.
	MaxNodes int
	// IPMode is returned by IPModes.
	IPMode IPMode
	// Ports go with every address, see portsOfEntry; nil if there is nothing to report about them.
	Ports []v1.PortStatus
	// Now is compared with the times in Sets.
	Now time.Time

	// publishedOnly limits the nodes to published ones, whatever addresses the Service asks for.
	publishedOnly bool
	// index is set by Indexed.
	index *index
}

// Status returns the status to publish. It is never nil. Addresses that stay keep their order, as
// many readers take the first for the load balancer's address. New ones follow, sorted by the
// Service's order of IP families, then by value.
func Status(in Input) *v1.LoadBalancerStatus {
	in = in.Indexed()
	return &v1.LoadBalancerStatus{Ingress: in.ingress(in.limit(in.nodesToPublish()))}
}

// StatusOfRefused returns what stays of the previous status of a Service that is refused, and so
// has no plan: the addresses of nodes that Status would publish. in.Nodes are all nodes that may
// serve Services.
func StatusOfRefused(in Input) *v1.LoadBalancerStatus {
	in.publishedOnly = true
	in = in.Indexed()
	return OnlyOf(in.Previous, in.nodesToPublish())
}

// nodesToPublish returns the nodes that serve, or while none is known to, those that may.
func (in Input) nodesToPublish() []*v1.Node {
	serving := in.serving()
	if in.awaitsFirst(serving) {
		return nil
	}
	if serving = in.preferLocal(preferring(serving, in.reached)); len(serving) == 0 {
		serving = in.lastResort()
	}
	return serving
}

// serving returns the healthy nodes that serve, or are about to serve ports that are new.
func (in Input) serving() []*v1.Node {
	nodes, known := in.index.healthyServing[in.publishedOnly]
	if !known {
		nodes = in.nodesWithAddress(func(node *v1.Node) bool {
			return healthy(node) && (in.serves(node) || in.awaitsNewPorts(node))
		})
		in.index.healthyServing[in.publishedOnly] = nodes
	}
	return nodes
}

// preferLocal returns, for policy Local, the nodes with a ready endpoint. While none has one, these
// are the nodes with an endpoint that still serves, as kube-proxy then uses it. While no node has
// one, the published nodes stay, or if there are none, all nodes do: DNS must not flap while a
// Deployment is replaced.
func (in Input) preferLocal(serving []*v1.Node) []*v1.Node {
	if !in.Local {
		return serving
	}
	for _, preferred := range []func(*v1.Node) bool{
		func(node *v1.Node) bool { return in.Endpoints[node.Name] || in.keepsEndpoints(node) },
		func(node *v1.Node) bool { return in.ServingEndpoints[node.Name] },
		in.isPublished,
	} {
		if nodes := filter(serving, preferred); len(nodes) > 0 {
			return nodes
		}
	}
	return serving
}

// keepsEndpoints reports whether a published node stays for its clients' sake while its endpoints
// terminate: without a mirror, kube-proxy serves only what is published.
func (in Input) keepsEndpoints(node *v1.Node) bool {
	return in.Direct[node.Name] && in.IPMode.Direct != "" && in.isPublished(node) && in.ServingEndpoints[node.Name]
}

// lastResort returns the nodes to publish while no node is known to serve: nodes that stay or, for a
// Service that has addresses, nodes that still serve something. These are the first of the following
// groups that is not empty:
//   - published nodes that are healthy, and published nodes that are about to be removed, while they
//     are Ready and serve some ports. If any of these nodes serves some ports, those that do; else the
//     proxies may just be replaced;
//   - published nodes that are not about to be removed: a node that lost the API server may still
//     forward;
//   - any nodes that are about to be removed, while they are Ready and serve some ports;
//   - published nodes that were deselected, until a node selected instead serves; if no selected
//     node is healthy, none;
//   - nodes that serve some of the ports, if possible such that are expected to serve all: as soon as
//     they are published, they count as serving.
func (in Input) lastResort() []*v1.Node {
	published := in.nodesWithAddress(in.isPublished)
	forwards := func(node *v1.Node) bool {
		return NodeReady(node) && !tainted(node, v1.TaintNodeOutOfService) && in.servesSome(node)
	}
	if alive := filter(published, func(node *v1.Node) bool { return healthy(node) || forwards(node) }); len(alive) > 0 {
		return preferring(alive, in.servesSome)
	}
	if staying := filter(published, func(node *v1.Node) bool { return !leaving(node) }); len(staying) > 0 {
		return staying
	}
	if len(in.Previous.Ingress) == 0 {
		return nil
	}
	forwarders := in.nodesWithAddress(forwards)
	if removed := filter(forwarders, leaving); len(removed) > 0 {
		return removed
	}
	if successors := in.nodesWithAddress(healthy); len(successors) == 0 {
		return nil
	}
	deselected := filter(in.Others, func(node *v1.Node) bool { return in.isPublished(node) && healthy(node) })
	if len(deselected) > 0 {
		return deselected
	}
	return in.preferLocal(preferring(preferring(forwarders, in.isExpectedToServe), in.reached))
}

// nodesWithAddress returns the planned nodes that have an address to publish and for which ok
// holds.
func (in Input) nodesWithAddress(ok func(*v1.Node) bool) []*v1.Node {
	return filter(in.Nodes, func(node *v1.Node) bool {
		if in.publishedOnly {
			return in.isPublished(node) && ok(node)
		}
		return ok(node) && in.hasAddressToPublish(node)
	})
}

// preferring returns the nodes for which ok holds, or all if there are none.
func preferring(nodes []*v1.Node, ok func(*v1.Node) bool) []*v1.Node {
	if preferred := filter(nodes, ok); len(preferred) > 0 {
		return preferred
	}
	return nodes
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

// serves reports whether all ports are served on a node.
func (in Input) serves(node *v1.Node) bool {
	return in.Direct[node.Name] || in.index.serving[node.Name]
}

// servesSome reports whether any port is served on a node.
func (in Input) servesSome(node *v1.Node) bool {
	return in.Direct[node.Name] || slices.ContainsFunc(in.index.sets, func(s setIndex) bool { return s.some[node.Name] })
}

// isPublished reports whether the previous status shows any address of a node.
func (in Input) isPublished(node *v1.Node) bool { return in.index.published[node.Name] }

// healthy reports whether a node is Ready and not about to be removed.
func healthy(node *v1.Node) bool { return NodeReady(node) && !leaving(node) }

// NodeReady reports whether the kubelet of a node reports that it is ready.
func NodeReady(node *v1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

// toBeDeletedTaint is on nodes that the cluster autoscaler is about to remove: ToBeDeletedTaint of
// k8s.io/cloud-provider/controllers/service, which imports clients.
const toBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

// leaving reports whether a node is about to be removed, or an administrator declared it dead.
func leaving(node *v1.Node) bool {
	return node.DeletionTimestamp != nil || tainted(node, toBeDeletedTaint) || tainted(node, v1.TaintNodeOutOfService)
}

func tainted(node *v1.Node, key string) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t v1.Taint) bool { return t.Key == key })
}

// ingress returns the nodes' addresses in the form and order of a status.
func (in Input) ingress(nodes []*v1.Node) []v1.LoadBalancerIngress {
	all := in.addressesToPublish(nodes)
	rank := func(ip netip.Addr) int { return slices.Index(in.Families, family(ip)) }
	slices.SortFunc(all, func(a, b address) int {
		return cmp.Or(cmp.Compare(in.index.places[b.text], in.index.places[a.text]), cmp.Compare(rank(a.ip), rank(b.ip)), a.ip.Compare(b.ip))
	})
	all = slices.CompactFunc(all, func(a, b address) bool { return a.ip == b.ip })
	var list []v1.LoadBalancerIngress
	for i, a := range all {
		list = append(list, v1.LoadBalancerIngress{IP: a.text, IPMode: &a.mode, Ports: in.portsOfEntry(i)})
	}
	return list
}

// OnlyAlreadyPublished returns status without the addresses that were not published before, as the
// firewall may not allow traffic to them yet. If none remains, it returns status as it is if
// previous shows any address: these are known to be bad, or no node has them any more. An empty
// status waits for the firewall: it returns the previous addresses that a node has.
func OnlyAlreadyPublished(status *v1.LoadBalancerStatus, previous v1.LoadBalancerStatus, nodes []*v1.Node) *v1.LoadBalancerStatus {
	if len(status.Ingress) == 0 {
		return OnlyOf(previous, nodes)
	}
	before := addressesIn(previous)
	kept := filter(status.Ingress, func(entry v1.LoadBalancerIngress) bool { return before.Has(entry.IP) })
	if len(kept) == 0 && len(previous.Ingress) > 0 {
		return status
	}
	return &v1.LoadBalancerStatus{Ingress: kept}
}

// NodesIn returns the names of the nodes of which a status shows any address.
func NodesIn(status v1.LoadBalancerStatus, nodes []*v1.Node) map[string]bool {
	if len(status.Ingress) == 0 || len(nodes) == 0 {
		return map[string]bool{}
	}
	ips := addressesIn(status)
	return snapshot.Names(filter(nodes, func(node *v1.Node) bool { return hasAddress(node, ips.Has) }))
}
