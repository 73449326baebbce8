package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// Flows calls visit for each TCP, UDP and SCTP flow.
func (k *Kernel) Flows(family config.Family, visit func(rules.Flow)) error {
	if err := dump(family, func(_ []byte, flow rules.Flow) { visit(flow) }); err != nil {
		return fmt.Errorf("reading %s connection tracking: %w", family, err)
	}
	return nil
}

// dump calls visit for each TCP, UDP and SCTP flow and its entry, which is valid until visit
// returns. It has no more in memory: a busy proxy has tens of thousands of flows, and package
// netlink's function would return them all.
func dump(family config.Family, visit func(entry []byte, flow rules.Flow)) error {
	return request(family, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		entry := message[nl.SizeofNfgenmsg:]
		if flow, ok := parseFlow(entry); ok {
			visit(entry, flow)
		}
		return true
	})
}

// Flush deletes the flows for which stale returns true, and returns their number.
func (k *Kernel) Flush(family config.Family, stale func(rules.Flow) bool) (int, error) {
	var entries [][]byte
	err := dump(family, func(entry []byte, flow rules.Flow) {
		if stale(flow) {
			entries = append(entries, slices.Clone(entry))
		}
	})
	failures := []error{err}
	deleted := 0
	for _, entry := range entries {
		// The request to delete an entry contains the entry as it was read.
		deletion := request(family, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		deletion.AddRawData(entry)
		if _, err := deletion.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, err)
			continue
		}
		deleted++
	}
	if err := errors.Join(failures...); err != nil {
		return deleted, fmt.Errorf("deleting %s flows from connection tracking: %w", family, err)
	}
	return deleted, nil
}

func request(family config.Family, operation, flags int) *nl.NetlinkRequest {
	const subsystem = unix.NFNL_SUBSYS_CTNETLINK << 8
	af := uint8(unix.AF_INET)
	if family == config.IPv6 {
		af = unix.AF_INET6
	}
	r := nl.NewNetlinkRequest(subsystem|operation, flags)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: af, Version: nl.NFNETLINK_V0})
	return r
}

var protocols = map[uint8]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP", unix.IPPROTO_SCTP: "SCTP"}

// synSent is the state of a TCP connection whose target has not answered
// (TCP_CONNTRACK_SYN_SENT in uapi/linux/netfilter/nf_conntrack_tcp.h).
const synSent = 1

// parseFlow parses an entry of connection tracking, whose format is in
// uapi/linux/netfilter/nfnetlink_conntrack.h. ok is false for protocols other
// than TCP, UDP and SCTP.
func parseFlow(entry []byte) (flow rules.Flow, ok bool) {
	number := attribute(entry, nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_PROTO, nl.CTA_PROTO_NUM)
	port := attribute(entry, nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_PROTO, nl.CTA_PROTO_DST_PORT)
	if len(number) != 1 || len(port) != 2 || protocols[number[0]] == "" {
		return rules.Flow{}, false
	}
	state := attribute(entry, nl.CTA_PROTOINFO, nl.CTA_PROTOINFO_TCP, nl.CTA_PROTOINFO_TCP_STATE)
	return rules.Flow{
		Protocol:    protocols[number[0]],
		OrigDst:     address(entry, nl.CTA_TUPLE_ORIG, nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST),
		OrigDstPort: binary.BigEndian.Uint16(port),
		ReplySrc:    address(entry, nl.CTA_TUPLE_REPLY, nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC),
		Established: len(state) == 1 && state[0] != synSent,
	}, true
}

func address(entry []byte, tuple, v4, v6 uint16) netip.Addr {
	raw := attribute(entry, tuple, nl.CTA_TUPLE_IP, v4)
	if raw == nil {
		raw = attribute(entry, tuple, nl.CTA_TUPLE_IP, v6)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}

// attribute returns the value at a path of nested netlink attributes, or nil.
func attribute(data []byte, path ...uint16) []byte {
	for _, want := range path {
		data = child(data, want)
	}
	return data
}

func child(data []byte, want uint16) []byte {
	for len(data) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(data))
		if length < unix.SizeofNlAttr || length > len(data) {
			return nil
		}
		if binary.NativeEndian.Uint16(data[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == want {
			return data[unix.SizeofNlAttr:length]
		}
		data = data[min(len(data), (length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return nil
}
