package rules

import (
	"net/netip"
	"slices"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// Flow is an entry of connection tracking.
type Flow struct {
	// Protocol is TCP, UDP or SCTP.
	Protocol string
	// OrigDst and OrigDstPort are the destination of the client's packets.
	OrigDst     netip.Addr
	OrigDstPort uint16
	// ReplySrc is the source of the replies: the destination after NAT.
	ReplySrc netip.Addr
	// Established means that the target of a TCP connection has answered.
	Established bool
}

// ToPort returns the port of the config that a flow goes to. ok is false if it goes elsewhere.
func ToPort(c config.Config, podAddrs []netip.Addr, flow Flow) (port config.Port, ok bool) {
	port = config.Port{Protocol: flow.Protocol, Port: flow.OrigDstPort}
	return port, slices.Contains(podAddrs, flow.OrigDst) && slices.Contains(c.Ports, port)
}

// Stale reports whether a flow to one of the pod's addresses has another target
// than the config's. The first packet of a flow decides its NAT. So a flow that
// is older than the rules, or that goes to an earlier cluster IP, keeps its
// target for as long as the client sends, and its entry has to be deleted. An
// established TCP connection is never stale: the node's own entry binds it to
// its backend, and it works without the earlier cluster IP. SCTP flows are not considered stale, as
// their state is not known here.
func Stale(c config.Config, podAddrs []netip.Addr, flow Flow) bool {
	clusterIP, served := c.ClusterIP(config.FamilyOf(flow.OrigDst))
	_, ours := ToPort(c, podAddrs, flow)
	return served && ours && flow.Protocol != "SCTP" && !flow.Established && flow.ReplySrc != clusterIP
}
