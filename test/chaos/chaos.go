// Package chaos is the pure part of a test that injects faults at random while clients send requests
// (TestChaos in test/e2e): which fault comes next, which failed requests are outages of a published
// address, and whether they stay within what the documentation promises.
package chaos

import (
	"cmp"
	"time"
)

// Loss says which open connections a fault may end.
type Loss int

const (
	// NoConnection ends by the fault.
	NoConnection Loss = iota
	// ProxiedConnections are those through proxies.
	ProxiedConnections
	// AnyConnection may end.
	AnyConnection
)

// Limit is what clients may notice of a fault.
type Limit struct {
	// Proxy and Direct are for how long an address that is published may fail to answer, by datapath.
	// Zero: not at all.
	Proxy, Direct time.Duration
	// Ends is which connections may end.
	Ends Loss
	// Source is the page of docs/explanation that promises this; empty if nothing is noticed.
	Source string
}

// Plus returns what clients may notice of two faults at a time: each may begin when the other ends.
func (l Limit) Plus(other Limit) Limit {
	return Limit{Proxy: l.Proxy + other.Proxy, Direct: l.Direct + other.Direct, Ends: max(l.Ends, other.Ends), Source: cmp.Or(l.Source, other.Source)}
}

// Episode is a period with one or more faults: from before the first of them until the cluster had
// recovered from all of them.
type Episode struct {
	// Name joins the names of the faults.
	Name     string
	From, To time.Time
	Limit    Limit
}
