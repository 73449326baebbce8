package nodeproxy

import (
	"context"
	"net/netip"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// Kernel is what the proxy asks of the network namespace it runs in. Package
// kernel has the real one, FakeKernel is for tests.
type Kernel interface {
	// Addresses returns the pod's own addresses that others can reach it at.
	Addresses() ([]netip.Addr, error)
	// Iptables finds an iptables that works here for the family. The error says
	// what was tried.
	Iptables(ctx context.Context, family config.Family) (Iptables, error)
	// Forward switches packet forwarding on and returns what it changed. The
	// error says what to do.
	Forward(family config.Family) (changed []string, err error)
	// Flush deletes the TCP and UDP flows for which stale returns true from the
	// kernel's connection tracking and returns how many there were.
	Flush(family config.Family, stale func(rules.Flow) bool) (int, error)
}

// Iptables is the packet filter of one IP family.
type Iptables interface {
	// Flavour is nft or legacy.
	Flavour() string
	// Save returns the output of iptables-save -c.
	Save(ctx context.Context) (string, error)
	// Restore feeds iptables-restore --noflush.
	Restore(ctx context.Context, text string) error
	// Exists asks iptables itself (-C) whether the chain holds the rule.
	Exists(table, chain string, spec ...string) (bool, error)
}
