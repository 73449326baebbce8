// Package iplist reads lists of IP addresses from annotations of Nodes.
package iplist

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Parse returns the addresses of a list that is separated by commas, each once,
// and quotes the entries that are no address a node can have.
func Parse(list string) (ips []netip.Addr, broken []string) {
	for _, written := range strings.Split(list, ",") {
		if written = strings.TrimSpace(written); written == "" {
			continue
		}
		ip, err := netip.ParseAddr(written)
		ip = ip.Unmap()
		switch {
		case err != nil || ip.Zone() != "" || !ip.IsGlobalUnicast():
			broken = append(broken, fmt.Sprintf("%q", written))
		case !slices.Contains(ips, ip):
			ips = append(ips, ip)
		}
	}
	return ips, broken
}
