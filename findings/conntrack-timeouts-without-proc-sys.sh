#!/usr/bin/env bash
# What: Linux 6.18, its module nfnetlink_cttimeout (IPCTNL_MSG_TIMEOUT_DEFAULT_SET), through
# github.com/vishvananda/netlink v1.3.1.
#
# A container with CAP_NET_ADMIN and without privilege cannot write
# net.netfilter.nf_conntrack_tcp_timeout_*: /proc/sys is mounted read-only, and these are not among the
# sysctls that a pod may ask for. Yet the kernel lets it set the same values over netlink, in the module
# nfnetlink_cttimeout, and they appear in /proc/sys. No rule or timeout policy is needed. So what a
# read-only /proc/sys seems to fix is not fixed, and a pod that masquerades can shorten the timeouts of
# half-open connections without a privileged init container.
#
# Who meets it: authors of proxies and of CNI plugins in pods, and those who take a read-only /proc/sys
# for a limit. hostport-nodeproxy uses it: nodeproxy/kernel/timeouts.go.
#
# Needs root, util-linux, Go and the Go module proxy. Exits non-zero if the behaviour changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func main() {
	const defaultSet, l3, l4, data, synRecv = 3, 2, 3, 4, 2
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK_TIMEOUT<<8|defaultSet, unix.NLM_F_ACK)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	r.AddData(nl.NewRtAttr(l3, nl.BEUint16Attr(unix.AF_INET)))
	r.AddData(nl.NewRtAttr(l4, nl.Uint8Attr(unix.IPPROTO_TCP)))
	timeouts := nl.NewRtAttr(unix.NLA_F_NESTED|data, nil)
	timeouts.AddRtAttr(synRecv, nl.BEUint32Attr(10))
	r.AddData(timeouts)
	if _, err := r.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		fmt.Fprintln(os.Stderr, "netlink:", err)
		os.Exit(1)
	}
}
GO
go mod init example.com/timeouts >/dev/null 2>&1
go get github.com/vishvananda/netlink@v1.3.1 golang.org/x/sys@v0.38.0 >/dev/null 2>&1
CGO_ENABLED=0 go build -o set .
modprobe -a nf_conntrack nfnetlink_cttimeout 2>/dev/null || true # They may be built in.

unshare --net --mount sh -euc '
	mount --bind /proc/sys /proc/sys
	mount -o remount,ro,bind /proc/sys
	exec setpriv --bounding-set -all,+net_admin sh -euc "
		file=/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_syn_recv
		echo before: \$(cat \$file) s
		if (echo 20 >\$file) 2>/dev/null; then echo changed: /proc/sys can be written; exit 1; fi
		echo \"/proc/sys: read-only\"
		./set
		echo after netlink: \$(cat \$file) s
		[ \$(cat \$file) = 10 ] || { echo changed: the timeout is another; exit 1; }
	"
'
# Seen: before: 60 s, /proc/sys: read-only, after netlink: 10 s.
echo "as seen with Linux 6.18"
