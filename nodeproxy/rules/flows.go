package rules

import (
	"net/netip"
	"slices"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// Flow is an entry of connection tracking.
type Flow struct {
	// Protocol is TCP or UDP.
	Protocol string
	// OrigDst and OrigDstPort are the destination of the client's packets.
	OrigDst     netip.Addr
	OrigDstPort uint16
	// ReplySrc is the source of the replies: the destination after NAT.
	ReplySrc netip.Addr
	// Established means that the target of a TCP connection has answered.
	Established bool
}

// Stale reports whether a flow to one of the pod's addresses has another target
// than the config's. The first packet of a flow decides its NAT. So a flow that
// is older than the rules, or that goes to an earlier cluster IP, keeps its
// target for as long as the client sends, and its entry has to be deleted. An
// established TCP connection is never stale: the node's own entry binds it to
// its backend, and it works without the earlier cluster IP.
func Stale(c config.Config, podAddrs []netip.Addr, flow Flow) bool {
	clusterIP, served := c.ClusterIP(config.FamilyOf(flow.OrigDst))
	return served && !flow.Established && c.Has(flow.Protocol, flow.OrigDstPort) &&
		slices.Contains(podAddrs, flow.OrigDst) && flow.ReplySrc != clusterIP
}
