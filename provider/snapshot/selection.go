package snapshot

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Selection is the nodes that Services with the same options select. Services share it, so nobody may
// change it.
type Selection struct {
	// Nodes are sorted by name.
	Nodes []*v1.Node
	Names map[string]bool

	nodes       *nodeIndex
	once        sync.Once
	addresses   []netip.Addr
	providerIDs []string
}

// Addresses returns the addresses of the nodes, sorted, each once. Callers share them.
func (s *Selection) Addresses() []netip.Addr {
	s.once.Do(s.collect)
	return s.addresses
}

// ProviderIDs returns the provider IDs of the nodes that have one. Callers share them.
func (s *Selection) ProviderIDs() []string {
	s.once.Do(s.collect)
	return s.providerIDs
}

func (s *Selection) collect() {
	s.addresses, s.providerIDs = s.nodes.AddressesOf(s.Nodes), ProviderIDs(s.Nodes)
}

// ProviderIDs returns the provider IDs of nodes. A node has none before it is initialised.
func ProviderIDs(nodes []*v1.Node) []string {
	var ids []string
	for _, node := range nodes {
		if node.Spec.ProviderID != "" {
			ids = append(ids, node.Spec.ProviderID)
		}
	}
	return ids
}

// selectionKey is equal for options that select nodes in the same way.
type selectionKey struct{ selector, tolerations string }

func keyOf(o options.Options) selectionKey {
	key := selectionKey{selector: o.NodeSelector.String()}
	if len(o.Tolerations) > 0 {
		tolerations, _ := json.Marshal(o.Tolerations) // Strings and numbers: never an error.
		key.tolerations = string(tolerations)
	}
	return key
}

func (ix *nodeIndex) indexAddresses(node *v1.Node) {
	for _, a := range node.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue
		}
		ix.byAddress[ip.Unmap()] = append(ix.byAddress[ip.Unmap()], node)
		if a.Type == v1.NodeInternalIP || a.Type == v1.NodeExternalIP {
			ix.addresses[node.Name] = append(ix.addresses[node.Name], ip.Unmap().WithZone(""))
		}
	}
}

// AddressesOf returns the internal and external addresses of nodes of the cluster, sorted, each once.
func (ix *nodeIndex) AddressesOf(nodes []*v1.Node) []netip.Addr {
	var all []netip.Addr
	for _, node := range nodes {
		all = append(all, ix.addresses[node.Name]...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// NodesIn returns the nodes that have an address in a status, sorted by name, each once.
func (ix *nodeIndex) NodesIn(status v1.LoadBalancerStatus) []*v1.Node {
	var nodes []*v1.Node
	for _, entry := range status.Ingress {
		if ip, err := netip.ParseAddr(entry.IP); err == nil {
			nodes = append(nodes, ix.byAddress[ip.Unmap()]...)
		}
	}
	slices.SortFunc(nodes, func(a, b *v1.Node) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(nodes)
}
