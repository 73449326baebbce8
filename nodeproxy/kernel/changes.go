package kernel

import (
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// networkGroups are the messages of the kernel that NetworkChanged waits for: of interfaces, addresses,
// and settings of interfaces such as forwarding.
var networkGroups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// NetworkChanged reports whether interfaces, addresses or forwarding may have changed since the last
// call. It is true at the first call, and while the kernel does not tell.
func (k *Kernel) NetworkChanged() bool {
	if k.messages == nil {
		socket, err := nl.Subscribe(unix.NETLINK_ROUTE, networkGroups...)
		if err == nil {
			k.messages = socket
		}
		return true
	}
	changed := false
	for buffer := [1]byte{}; ; { // the content does not matter
		_, _, err := unix.Recvfrom(k.messages.GetFd(), buffer[:], unix.MSG_DONTWAIT)
		switch {
		case err == nil, errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR): // ENOBUFS: some were lost
			changed = true
		case errors.Is(err, unix.EAGAIN):
			return changed
		default:
			k.messages.Close()
			k.messages = nil
			return true
		}
	}
}
