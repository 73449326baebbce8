package kernel

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// Flush deletes the TCP and UDP flows for which stale returns true. It reads all
// flows of the family, so memory grows with their number while it runs.
func (k *Kernel) Flush(family config.Family, stale func(rules.Flow) bool) (int, error) {
	af := netlink.InetFamily(unix.AF_INET)
	if family == config.IPv6 {
		af = unix.AF_INET6
	}
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, af, flowFilter(stale))
	if err != nil {
		return int(n), fmt.Errorf("deleting %s flows from connection tracking: %w", family, err)
	}
	return int(n), nil
}

type flowFilter func(rules.Flow) bool

// MatchConntrackFlow makes the function a filter of package netlink.
func (stale flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	protocol, known := protocols[flow.Forward.Protocol]
	return known && stale(rules.Flow{
		Protocol:    protocol,
		Dialled:     address(flow.Forward.DstIP),
		Port:        flow.Forward.DstPort,
		Answers:     address(flow.Reverse.SrcIP),
		Established: established(flow),
	})
}

var protocols = map[uint8]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP"}

// synSent is the state of a connection whose target has not answered
// (TCP_CONNTRACK_SYN_SENT in uapi/linux/netfilter/nf_conntrack_tcp.h).
const synSent = 1

func established(flow *netlink.ConntrackFlow) bool {
	tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && tcp.State != synSent
}

func address(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
