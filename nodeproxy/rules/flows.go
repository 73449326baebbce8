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

// Matcher assigns flows to the ports of a config. It is made for one config and one set of addresses,
// and asked about each of many flows.
type Matcher struct {
	podAddrs   []netip.Addr
	ports      map[config.Port]bool
	clusterIPs map[config.Family]netip.Addr
}

// NewMatcher returns the Matcher for a config and the pod's addresses.
func NewMatcher(c config.Config, podAddrs []netip.Addr) *Matcher {
	m := &Matcher{podAddrs: podAddrs, ports: map[config.Port]bool{}, clusterIPs: map[config.Family]netip.Addr{}}
	for _, port := range c.Ports {
		m.ports[port] = true
	}
	for _, family := range config.Families {
		if clusterIP, served := c.ClusterIP(family); served {
			m.clusterIPs[family] = clusterIP
		}
	}
	return m
}

// Port returns the port of the config that a flow goes to. ok is false if it goes elsewhere.
func (m *Matcher) Port(flow Flow) (port config.Port, ok bool) {
	port = config.Port{Protocol: flow.Protocol, Port: flow.OrigDstPort}
	return port, m.ports[port] && slices.Contains(m.podAddrs, flow.OrigDst)
}

// Stale reports whether a flow to one of the pod's addresses has another target
// than the config's. The first packet of a flow decides its NAT. So a flow that
// is older than the rules, or that goes to an earlier cluster IP, keeps its
// target for as long as the client sends, and its entry has to be deleted. An
// established TCP connection is never stale: the node's own entry binds it to
// its backend, and it works without the earlier cluster IP. SCTP flows are not considered stale, as
// their state is not known here.
func (m *Matcher) Stale(flow Flow) bool {
	if flow.Protocol == "SCTP" || flow.Established {
		return false
	}
	clusterIP, served := m.clusterIPs[config.FamilyOf(flow.OrigDst)]
	_, ours := m.Port(flow)
	return served && ours && flow.ReplySrc != clusterIP
}
