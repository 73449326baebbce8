package rules

import (
	"net/netip"
	"slices"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// Flow is a flow that conntrack knows.
type Flow struct {
	// Protocol is TCP or UDP.
	Protocol string
	// Dialled and Port are where the client sends to.
	Dialled netip.Addr
	Port    uint16
	// Answers is where replies come from: the rewritten target.
	Answers netip.Addr
	// Established says of a TCP connection that the target has answered.
	Established bool
}

// Stale says whether a flow to one of the pod's addresses goes elsewhere than
// the config says. NAT is decided by a flow's first packet, so a flow that began
// before the rules, or toward an old cluster IP, stays wrong for as long as the
// client keeps sending; its entry must be deleted. An established TCP
// connection is not stale: the node has tied it to its backend by an entry of
// its own, and it works on without the old cluster IP.
func Stale(c config.Config, own []netip.Addr, flow Flow) bool {
	target, serves := c.ClusterIP(config.FamilyOf(flow.Dialled))
	return serves && !flow.Established && c.Has(flow.Protocol, flow.Port) && slices.Contains(own, flow.Dialled) && flow.Answers != target
}
