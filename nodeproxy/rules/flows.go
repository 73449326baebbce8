package rules

import (
	"net/netip"
	"slices"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// Flow is a UDP flow that conntrack knows.
type Flow struct {
	// Dialled and Port are where the client sends to.
	Dialled netip.Addr
	Port    uint16
	// Answers is where replies come from: the rewritten target.
	Answers netip.Addr
}

// Stale says whether a UDP flow to one of the pod's addresses goes elsewhere
// than the config says. NAT is decided by a flow's first packet, so a flow that
// began before the rules, or toward an old cluster IP, stays wrong for as long
// as the client keeps sending; its entry must be deleted.
func Stale(c config.Config, own []netip.Addr, flow Flow) bool {
	target, serves := c.ClusterIP(config.FamilyOf(flow.Dialled))
	return serves && c.Has("UDP", flow.Port) && slices.Contains(own, flow.Dialled) && flow.Answers != target
}
