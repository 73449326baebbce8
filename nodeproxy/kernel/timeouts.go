package kernel

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// The request that sets a protocol's default timeouts, and its attributes
// (uapi/linux/netfilter/nfnetlink_cttimeout.h). Package nl does not name them.
const (
	timeoutDefaultSet = 3 // IPCTNL_MSG_TIMEOUT_DEFAULT_SET

	ctaTimeoutL3Proto = 2
	ctaTimeoutL4Proto = 3
	ctaTimeoutData    = 4

	ctaTimeoutTCPSynSent     = 1
	ctaTimeoutTCPSynRecv     = 2
	ctaTimeoutTCPEstablished = 3
	ctaTimeoutTCPFinWait     = 4
	ctaTimeoutTCPTimeWait    = 7
)

// SetTCPTimeouts sets the timeouts of both IP families in this network namespace. The others of TCP
// stay as they are. This takes NET_ADMIN alone, whereas /proc/sys, which shows the timeouts, is
// read-only in a container without privilege. The kernel loads the module nfnetlink_cttimeout for
// it; without that the request fails.
func (k *Kernel) SetTCPTimeouts(timeouts rules.TCPTimeouts) error {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK_TIMEOUT<<8|timeoutDefaultSet, unix.NLM_F_ACK)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	// The family is mandatory and has no effect.
	request.AddData(nl.NewRtAttr(ctaTimeoutL3Proto, nl.BEUint16Attr(unix.AF_INET)))
	request.AddData(nl.NewRtAttr(ctaTimeoutL4Proto, nl.Uint8Attr(unix.IPPROTO_TCP)))
	data := nl.NewRtAttr(unix.NLA_F_NESTED|ctaTimeoutData, nil)
	for attribute, timeout := range map[int]time.Duration{
		ctaTimeoutTCPSynSent:     timeouts.SynSent,
		ctaTimeoutTCPSynRecv:     timeouts.SynRecv,
		ctaTimeoutTCPEstablished: timeouts.Established,
		ctaTimeoutTCPFinWait:     timeouts.FinWait,
		ctaTimeoutTCPTimeWait:    timeouts.TimeWait,
	} {
		data.AddRtAttr(attribute, nl.BEUint32Attr(uint32(timeout.Seconds())))
	}
	request.AddData(data)
	if _, err := request.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		return fmt.Errorf("setting the TCP timeouts of connection tracking, for which the node's kernel needs the module nfnetlink_cttimeout: %w", err)
	}
	return nil
}
