#!/usr/bin/env bash
# What: github.com/vishvananda/netlink v1.3.1, ConntrackCreate and ConntrackUpdate, on Linux 6.18.
#
# The addresses of a ConntrackFlow are of type net.IP, whose usual form for IPv4, as net.ParseIP and
# net.IPv4 return it, has 16 bytes. The library sends all 16 in the attribute for an IPv4 address, and
# the kernel, which reads attributes of at least the expected length, takes the first four: zeros. No
# error is returned, and the connection is tracked between 0.0.0.0 and 0.0.0.0. All further ones are the
# same to the kernel if their ports are, so of many only one exists. With To4() the entry is right.
#
# Who meets it: authors of proxies, load balancers and conntrack synchronisation that create entries, and
# of tests that fill connection tracking. hostport-ccm's test of proxies that are nearly full met it:
# test/e2e/saturation_test.go. (The product only lists and deletes entries.)
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
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// create tracks a connection between two addresses and returns the client of the only one that is
// tracked then.
func create(client, server net.IP) string {
	err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
		FamilyType: unix.AF_INET, TimeOut: 600,
		Forward:   netlink.IPTuple{Protocol: unix.IPPROTO_TCP, SrcIP: client, SrcPort: 40000, DstIP: server, DstPort: 80},
		Reverse:   netlink.IPTuple{Protocol: unix.IPPROTO_TCP, SrcIP: server, SrcPort: 80, DstIP: client, DstPort: 40000},
		ProtoInfo: &netlink.ProtoInfoTCP{State: nl.TCP_CONNTRACK_ESTABLISHED},
	})
	if err != nil {
		return err.Error()
	}
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil || len(flows) != 1 {
		return fmt.Sprint(len(flows), " connections, ", err)
	}
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return err.Error()
	}
	return flows[0].Forward.SrcIP.String()
}

func main() {
	client, server := net.ParseIP("198.18.0.1"), net.ParseIP("198.18.0.2")
	long, short := create(client, server), create(client.To4(), server.To4())
	fmt.Println("with 16 bytes:", long)
	fmt.Println("with 4 bytes: ", short)
	if long != "0.0.0.0" || short != "198.18.0.1" {
		fmt.Println("changed: want 0.0.0.0 and 198.18.0.1")
		os.Exit(1)
	}
}
GO
go mod init example.com/conntrack >/dev/null 2>&1
go get github.com/vishvananda/netlink@v1.3.1 golang.org/x/sys@v0.38.0 >/dev/null 2>&1
CGO_ENABLED=0 go build -o create .
modprobe -a nf_conntrack nf_conntrack_netlink 2>/dev/null || true # They may be built in.
unshare --net ./create
# Seen: 0.0.0.0 with 16 bytes, 198.18.0.1 with 4 bytes.
echo "as seen with Linux 6.18"
