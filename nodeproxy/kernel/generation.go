package kernel

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// generation returns the number of the state of nf_tables in this network namespace. Whoever changes
// any table gives it another.
func generation() (uint32, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	n, err := number(request, unix.NFTA_GEN_ID)
	if err != nil {
		return 0, fmt.Errorf("reading the generation of nf_tables: %w", err)
	}
	return n, nil
}

// The request for the statistics of connection tracking, and its attribute for the number of entries
// (uapi/linux/netfilter/nfnetlink_conntrack.h). Package nl does not name them.
const (
	conntrackGetStats     = 5 // IPCTNL_MSG_CT_GET_STATS
	ctaStatsGlobalEntries = 1
)

// FlowCount returns the number of entries of connection tracking in this network namespace, of all
// protocols and both IP families. Unlike Flows, it does not read them.
func (k *Kernel) FlowCount() (int, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|conntrackGetStats, 0)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	n, err := number(request, ctaStatsGlobalEntries)
	if err != nil {
		return 0, fmt.Errorf("reading the number of entries of connection tracking: %w", err)
	}
	return int(n), nil
}

// number returns the 32-bit number in an attribute of the answer to a request. A proxy without
// traffic does little else, and package nl reads each answer into 64 KiB of new memory, which is work
// for the garbage collector. It would also wait for more after the statistics, which the kernel marks
// as one answer of several.
func number(request *nl.NetlinkRequest, of uint16) (uint32, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, err
	}
	defer unix.Close(socket)
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return 0, err
	}
	if err := unix.Sendto(socket, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	buffer := make([]byte, 1024)
	n, _, err := unix.Recvfrom(socket, buffer, 0)
	if err != nil {
		return 0, err
	}
	answers, err := syscall.ParseNetlinkMessage(buffer[:n])
	if err != nil {
		return 0, err
	}
	for _, answer := range answers {
		if answer.Header.Type == unix.NLMSG_ERROR && len(answer.Data) >= 4 {
			return 0, unix.Errno(-int32(binary.NativeEndian.Uint32(answer.Data)))
		}
		if value := attribute(answer.Data[min(len(answer.Data), nl.SizeofNfgenmsg):], of); len(value) == 4 {
			return binary.BigEndian.Uint32(value), nil
		}
	}
	return 0, fmt.Errorf("the answer has no attribute %d", of)
}
