package nodeproxy

import (
	"context"
	"net/netip"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// Kernel is what the proxy needs of its pod's network namespace. Package kernel
// implements it; package nodeproxytest has a fake.
type Kernel interface {
	// Addresses returns the pod's addresses that other hosts can reach.
	Addresses() ([]netip.Addr, error)
	// NetworkChanged reports whether Addresses or Forward may have something else to
	// do than at the last call.
	NetworkChanged() bool
	// Iptables returns an iptables that works here for the family. The error names
	// what was tried.
	Iptables(ctx context.Context, family config.Family) (Iptables, error)
	// Forward switches packet forwarding on and returns the interfaces that it
	// changed. The error says what to do.
	Forward(family config.Family) (changed []string, err error)
	// Flows calls visit for each entry of connection tracking.
	Flows(family config.Family, visit func(rules.Flow)) error
	// FlowCount returns the number of entries of connection tracking, of all kinds.
	FlowCount() (int, error)
	// Flush deletes the flows for which stale returns true from connection
	// tracking, and returns their number.
	Flush(family config.Family, stale func(rules.Flow) bool) (int, error)
	// SetTCPTimeouts sets connection tracking's timeouts. It fails if the kernel
	// cannot.
	SetTCPTimeouts(timeouts rules.TCPTimeouts) error
}

// Iptables is the packet filter of one IP family.
type Iptables interface {
	// Flavour returns nft or legacy.
	Flavour() string
	// Generation returns a number that any change of any rule changes. known is
	// false if the kernel has none.
	Generation() (n uint32, known bool)
	// Save returns the output of iptables-save -c.
	Save(ctx context.Context) (string, error)
	// Restore runs iptables-restore --noflush with the text as its input.
	Restore(ctx context.Context, text string) error
	// Exists reports whether the chain has the rule, as iptables -C does.
	Exists(table, chain string, spec ...string) (bool, error)
}
