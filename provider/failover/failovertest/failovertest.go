// Package failovertest has a fake of failover.Monitor for the tests of other packages.
package failovertest

import (
	"slices"
	"sync"

	"k8s.io/api/core/v1"
	nodeutil "k8s.io/component-helpers/node/util"

	"github.com/hostport-ccm/hostport-ccm/provider/failover"
)

// Monitor is a failover.Monitor whose nodes go down and come up when the test says so. The zero
// value is ready for use and has no node down. It is safe for concurrent use.
type Monitor struct {
	mu       sync.Mutex
	down     []string
	notify   func(failover.Transition)
	overlaid bool
	changes  uint64
}

// SetDown makes exactly these nodes down and notifies the subscriber of those that change: first of
// those that come up, then of those that go down.
func (m *Monitor) SetDown(nodes ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.down
	m.down, m.overlaid = slices.Clone(nodes), false
	m.changes++
	for _, node := range before {
		if !slices.Contains(nodes, node) {
			m.notifyOf(node, false)
		}
	}
	for _, node := range nodes {
		if !slices.Contains(before, node) {
			m.notifyOf(node, true)
		}
	}
}

// Renotify notifies the subscriber once more of the nodes that are down, as if it subscribed again.
func (m *Monitor) Renotify() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.overlaid = false
	for _, node := range m.down {
		m.notifyOf(node, true)
	}
}

// notifyOf is to be called with mu held.
func (m *Monitor) notifyOf(node string, down bool) {
	if m.notify != nil {
		m.notify(failover.Transition{Node: node, Down: down})
	}
}

// Overlaid reports whether OverlayNotReady was called since the last SetDown or Renotify.
func (m *Monitor) Overlaid() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.overlaid
}

// Subscribe does as that of failover.Monitor.
func (m *Monitor) Subscribe(notify func(failover.Transition)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notify = notify
	for _, node := range m.down {
		m.notifyOf(node, true)
	}
}

// Generation changes with SetDown.
func (m *Monitor) Generation() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

// OverlayNotReady does as that of failover.Monitor.
func (m *Monitor) OverlayNotReady(nodes []*v1.Node) []*v1.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.overlaid = true
	overlaid := slices.Clone(nodes)
	for i, node := range overlaid {
		if !slices.Contains(m.down, node.Name) {
			continue
		}
		overlaid[i] = node.DeepCopy()
		if _, ready := nodeutil.GetNodeCondition(&overlaid[i].Status, v1.NodeReady); ready != nil {
			ready.Status = v1.ConditionUnknown
		}
	}
	return overlaid
}
