package nodeproxy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// FakeKernel is a Kernel for tests: it keeps what it is told and can be made to
// fail or to forget, as the real one does. Its methods are safe for concurrent
// use; its fields must only be changed through Change once it is in use.
type FakeKernel struct {
	mu sync.Mutex
	// Addrs are the pod's addresses.
	Addrs []netip.Addr
	// Tables are the packet filters. A family that is missing has no iptables.
	Tables map[config.Family]*rules.Fake
	// Forwards says for which families forwarding is on. Only IPv4's can be
	// switched on.
	Forwards map[config.Family]bool
	// Flows are the flows in connection tracking.
	Flows []rules.Flow
	// RestoreErr and FlushErr, if set, are what Restore and Flush return.
	RestoreErr, FlushErr error
	// Probes counts the calls of Iptables.
	Probes int
}

// NewFakeKernel returns a Kernel that can do both families, with forwarding off.
func NewFakeKernel(addrs ...netip.Addr) *FakeKernel {
	return &FakeKernel{
		Addrs:    addrs,
		Tables:   map[config.Family]*rules.Fake{config.IPv4: rules.NewFake(), config.IPv6: rules.NewFake()},
		Forwards: map[config.Family]bool{},
	}
}

// Change runs f while nobody else looks at the fields.
func (k *FakeKernel) Change(f func(k *FakeKernel)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(k)
}

// Addresses returns Addrs.
func (k *FakeKernel) Addresses() ([]netip.Addr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.Addrs), nil
}

// Iptables returns the family's Tables.
func (k *FakeKernel) Iptables(_ context.Context, family config.Family) (Iptables, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Probes++
	if k.Tables[family] == nil {
		return nil, fmt.Errorf("no iptables for %s", family)
	}
	return fakeIptables{k, family}, nil
}

// Forward switches IPv4 forwarding on and finds IPv6's as it is.
func (k *FakeKernel) Forward(family config.Family) ([]string, error) {
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

// Flush removes the stale flows of the family.
func (k *FakeKernel) Flush(family config.Family, stale func(rules.Flow) bool) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.FlushErr != nil {
		return 0, k.FlushErr
	}
	before := len(k.Flows)
	k.Flows = slices.DeleteFunc(k.Flows, func(flow rules.Flow) bool {
		return config.FamilyOf(flow.OrigDst) == family && stale(flow)
	})
	return before - len(k.Flows), nil
}

// fakeIptables reaches one family's Tables under the kernel's lock.
type fakeIptables struct {
	kernel *FakeKernel
	family config.Family
}

// Flavour is fake.
func (t fakeIptables) Flavour() string { return "fake" }

func (t fakeIptables) Save(context.Context) (string, error) {
	t.kernel.mu.Lock()
	defer t.kernel.mu.Unlock()
	return t.kernel.Tables[t.family].Save(), nil
}

func (t fakeIptables) Restore(_ context.Context, text string) error {
	t.kernel.mu.Lock()
	defer t.kernel.mu.Unlock()
	if t.kernel.RestoreErr != nil {
		return t.kernel.RestoreErr
	}
	return t.kernel.Tables[t.family].Restore(text)
}

func (t fakeIptables) Exists(table, chain string, spec ...string) (bool, error) {
	t.kernel.mu.Lock()
	defer t.kernel.mu.Unlock()
	return t.kernel.Tables[t.family].Exists(table, chain, spec...)
}
