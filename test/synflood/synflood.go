// Package synflood opens TCP connections halfway, from addresses that nobody has, to test that a
// port stays usable.
package synflood

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ipHeader, tcpHeader = 20, 20
	// burst is how many packets are sent between two looks at the clock.
	burst = 50
)

// Send sends n SYN packets to an IPv4 address and port, at most perSecond of them in each second,
// from random addresses of a prefix and random ports. It uses the network namespace of the calling
// thread, and needs NET_RAW.
func Send(ctx context.Context, target netip.AddrPort, from netip.Prefix, n, perSecond int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("opening a raw socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: target.Addr().As4()}
	begin := time.Now()
	for i := range n {
		if err := unix.Sendto(fd, syn(target, from), 0, to); err != nil {
			return fmt.Errorf("sending packet %d to %s: %w", i, target, err)
		}
		if i%burst > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(perSecond)))):
		}
	}
	return nil
}

// syn returns an IPv4 packet with a SYN. The kernel fills in the length and the checksum of the IP
// header.
func syn(target netip.AddrPort, from netip.Prefix) []byte {
	packet := make([]byte, ipHeader+tcpHeader)
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_TCP // version and header length, TTL, protocol
	source, destination := from.Masked().Addr().As4(), target.Addr().As4()
	host := rand.Uint32() & (1<<(32-from.Bits()) - 1)
	binary.BigEndian.PutUint32(packet[12:], binary.BigEndian.Uint32(source[:])|host)
	copy(packet[16:], destination[:])
	segment := packet[ipHeader:]
	binary.BigEndian.PutUint16(segment, uint16(1024+rand.IntN(64512)))
	binary.BigEndian.PutUint16(segment[2:], target.Port())
	binary.BigEndian.PutUint32(segment[4:], rand.Uint32())
	segment[12], segment[13] = tcpHeader/4<<4, 0x02 // header length, SYN
	binary.BigEndian.PutUint16(segment[14:], 64240) // window
	binary.BigEndian.PutUint16(segment[16:], checksum(packet[12:ipHeader], segment))
	return packet
}

// checksum returns TCP's checksum over both addresses, the protocol, the length, and the segment.
func checksum(addresses, segment []byte) uint16 {
	sum := uint32(unix.IPPROTO_TCP + len(segment))
	for _, part := range [][]byte{addresses, segment} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}
