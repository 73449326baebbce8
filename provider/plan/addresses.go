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
func (in Input) addresses(planned nodeSet) []netip.Addr {
	names := planned.names()
	var others []*v1.Node
	for _, active := range []map[string]bool{in.Running, in.Draining} {
		for name, isActive := range active {
			if node := in.Cluster.Node(name); isActive && node != nil && !names[name] {
				others = append(others, node)
			}
		}
	}
	if len(others) == 0 && planned.selection != nil {
		return planned.selection.Addresses()
	}
	return in.Cluster.AddressesOf(slices.Concat(planned.nodes, others))
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
