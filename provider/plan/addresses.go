package plan

import (
	"encoding/json"
	"net/netip"
	"slices"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// addresses returns the addresses, sorted, of the nodes that serve the Service: of the planned
// nodes, and of others until they have stopped. Their addresses may be published until then.
func (in Input) addresses(planned map[string]bool) []netip.Addr {
	var all []netip.Addr
	for _, node := range in.Cluster.Nodes {
		if !planned[node.Name] && !in.Running[node.Name] && !in.Draining[node.Name] {
			continue
		}
		for _, a := range node.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if err == nil && (a.Type == v1.NodeInternalIP || a.Type == v1.NodeExternalIP) {
				all = append(all, ip.Unmap().WithZone(""))
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// nodeSelection returns the same text for Services that select nodes in the same way, and an empty
// one for those that select all nodes.
func nodeSelection(o options.Options) string {
	selector := o.NodeSelector.String()
	if selector == "" && len(o.Tolerations) == 0 {
		return ""
	}
	tolerations, _ := json.Marshal(o.Tolerations) // Strings and numbers: never an error.
	return selector + " " + string(tolerations)
}
