package rules

import (
	"net/netip"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// The rules of the chain for shutdown. The mark of a connection means that it
// began under these rules.
const (
	markNew = "-p tcp -m conntrack --ctstate NEW -j CONNMARK --set-xmark 0x1/0xffffffff"
	// resetUnmarked spares packets that end a connection regularly.
	resetUnmarked = "-p tcp -m connmark ! --mark 0x1 -m tcp --tcp-flags FIN,RST NONE -j REJECT --reject-with tcp-reset"
	acceptAll     = "-j ACCEPT"
)

// ShutdownMark returns the rules of Wanted, which also mark the TCP connections
// that begin under them. ShutdownReset spares these.
func ShutdownMark(c config.Config, family config.Family, addrs []netip.Addr) Ruleset {
	return build(c, family, addrs, chainReset, Chain{Table: "filter", Name: chainReset,
		Rules: []Rule{rule(markNew), rule(acceptAll)}})
}

// ShutdownReset returns the rules of Wanted, except that packets from the client
// on a TCP connection without a mark are answered with a reset. Packets from the
// target still reach the client. So a client that only listens acknowledges
// them and is reset too; then its host resets the target.
func ShutdownReset(c config.Config, family config.Family, addrs []netip.Addr) Ruleset {
	return build(c, family, addrs, chainReset, Chain{Table: "filter", Name: chainReset,
		Rules: []Rule{rule(markNew), rule(resetUnmarked), rule(acceptAll)}})
}
