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

// FlushUDP deletes the UDP flows for which stale returns true. It reads all
// flows of the family, so memory grows with their number while it runs.
func (k *Kernel) FlushUDP(family config.Family, stale func(rules.Flow) bool) (int, error) {
	af := netlink.InetFamily(unix.AF_INET)
	if family == config.IPv6 {
		af = unix.AF_INET6
	}
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, af, flowFilter(stale))
	if err != nil {
		return int(n), fmt.Errorf("deleting %s UDP flows from connection tracking: %w", family, err)
	}
	return int(n), nil
}

type flowFilter func(rules.Flow) bool

// MatchConntrackFlow makes the function a filter of package netlink.
func (stale flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && stale(rules.Flow{
		Dialled: address(flow.Forward.DstIP),
		Port:    flow.Forward.DstPort,
		Answers: address(flow.Reverse.SrcIP),
	})
}

func address(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
