package rules

import (
	"net/netip"
	"slices"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// The rules of the chain that a pod about to go has. A connection's mark says
// that it began under them.
const (
	markNew = "-p tcp -m conntrack --ctstate NEW -j CONNMARK --set-mark 1"
	// resetOld leaves alone what ends a connection in good order.
	resetOld  = "-p tcp -m connmark ! --mark 1 -m tcp --tcp-flags FIN,RST NONE -j REJECT --reject-with tcp-reset"
	acceptAll = "-j " + accept
)

// Parting returns Wanted's rules, which besides note what TCP connections begin
// under them: those that Farewell is to spare.
func Parting(c config.Config, family config.Family, addrs []netip.Addr) Set {
	return parting(c, family, addrs, markNew, acceptAll)
}

// Farewell returns Wanted's rules, except that what a client sends on a TCP
// connection from before Parting, or from before these, is answered with a
// reset. What its target sends still goes to the client: it makes one that is
// only listening answer, and be reset, and after that the client's host resets
// the target.
func Farewell(c config.Config, family config.Family, addrs []netip.Addr) Set {
	return parting(c, family, addrs, markNew, resetOld, acceptAll)
}

func parting(c config.Config, family config.Family, addrs []netip.Addr, specs ...string) Set {
	chain := Chain{Table: "filter", Name: chainFarewell}
	for _, spec := range specs {
		chain.Rules = append(chain.Rules, rule(spec))
	}
	set := build(c, family, addrs, chainFarewell)
	first := slices.IndexFunc(set.Chains, func(c Chain) bool { return c.Table == chain.Table })
	set.Chains = slices.Insert(set.Chains, first, chain)
	return set
}
