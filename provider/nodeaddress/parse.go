package nodeaddress

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Parse returns the addresses of a list separated by commas, each once, and the entries, quoted,
// that are not an address a node can have.
func Parse(list string) (ips []netip.Addr, invalid []string) {
	for _, entry := range strings.Split(list, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		ip, err := netip.ParseAddr(entry)
		ip = ip.Unmap()
		switch {
		case err != nil || ip.Zone() != "" || !ip.IsGlobalUnicast():
			invalid = append(invalid, options.Quote(entry))
		case !slices.Contains(ips, ip):
			ips = append(ips, ip)
		}
	}
	return ips, invalid
}
