// Package nodeproxytest has a fake of the kernel for tests of the node proxy:
// iptables, forwarding, addresses and connection tracking in memory.
package nodeproxytest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

var _ nodeproxy.Kernel = &Kernel{}

// Kernel is a nodeproxy.Kernel in memory. Its methods are safe for concurrent
// use. While another goroutine uses it, a test must not access its fields, other
// than to call the methods of Tables.
type Kernel struct {
	mu sync.Mutex
	// Addrs are the pod's addresses.
	Addrs []netip.Addr
	// Tables are the packet filters. A family without one has no iptables.
	Tables map[config.Family]*Iptables
	// Forwards has the families whose forwarding is on. As in an unprivileged pod,
	// only that of IPv4 can be switched on.
	Forwards map[config.Family]bool
	// Tracked are the entries of connection tracking.
	Tracked []rules.Flow
	// FlowsErr and FlushErr are the errors that Flows and Flush return, if any.
	FlowsErr, FlushErr error
	// TCPTimeouts are those that were set last.
	TCPTimeouts rules.TCPTimeouts
	// TimeoutsErr is the error that SetTCPTimeouts returns, if any.
	TimeoutsErr error
	// IptablesCalls and AddressesCalls count the calls of Iptables and Addresses.
	IptablesCalls, AddressesCalls int
	// seen is what the network was at the last call of NetworkChanged.
	seen string
}

// NewKernel returns a Kernel that supports both families, with forwarding off.
func NewKernel(addrs ...netip.Addr) *Kernel {
	return &Kernel{
		Addrs:    addrs,
		Tables:   map[config.Family]*Iptables{config.IPv4: NewIptables(), config.IPv6: NewIptables()},
		Forwards: map[config.Family]bool{},
	}
}

// FailRestore calls FailRestore of all Tables.
func (k *Kernel) FailRestore(err error) {
	for _, table := range k.Tables {
		table.FailRestore(err)
	}
}

// Addresses returns Addrs.
func (k *Kernel) Addresses() ([]netip.Addr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.AddressesCalls++
	return slices.Clone(k.Addrs), nil
}

// NetworkChanged reports whether Addrs or Forwards have changed since the last call.
func (k *Kernel) NetworkChanged() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := fmt.Sprint(k.Addrs, k.Forwards)
	changed := now != k.seen
	k.seen = now
	return changed
}

// Iptables returns the family's packet filter.
func (k *Kernel) Iptables(_ context.Context, family config.Family) (nodeproxy.Iptables, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.IptablesCalls++
	if k.Tables[family] == nil {
		return nil, fmt.Errorf("no iptables for %s", family)
	}
	return k.Tables[family], nil
}

// Forward switches forwarding of IPv4 on and checks that of IPv6.
func (k *Kernel) Forward(family config.Family) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.Forwards[family]:
		return nil, nil
	case family == config.IPv6:
		return nil, fmt.Errorf("forwarding of %s is off", family)
	}
	k.Forwards[family] = true
	return []string{"eth0"}, nil
}

// Flows visits the flows of the family.
func (k *Kernel) Flows(family config.Family, visit func(rules.Flow)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.FlowsErr != nil {
		return k.FlowsErr
	}
	for _, flow := range k.Tracked {
		if config.FamilyOf(flow.OrigDst) == family {
			visit(flow)
		}
	}
	return nil
}

// FlowCount returns the number of Tracked entries.
func (k *Kernel) FlowCount() (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.Tracked), k.FlowsErr
}

// Flush deletes the stale flows of the family.
func (k *Kernel) Flush(family config.Family, stale func(rules.Flow) bool) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.FlushErr != nil {
		return 0, k.FlushErr
	}
	before := len(k.Tracked)
	k.Tracked = slices.DeleteFunc(k.Tracked, func(flow rules.Flow) bool {
		return config.FamilyOf(flow.OrigDst) == family && stale(flow)
	})
	return before - len(k.Tracked), nil
}

// SetTCPTimeouts changes TCPTimeouts.
func (k *Kernel) SetTCPTimeouts(timeouts rules.TCPTimeouts) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.TimeoutsErr == nil {
		k.TCPTimeouts = timeouts
	}
	return k.TimeoutsErr
}
