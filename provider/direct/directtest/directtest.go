// Package directtest has a fake of direct.Manager.
package directtest

import (
	"context"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/direct"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// Manager has kube-proxy serve Services in memory, with a mirror for each, at once. The zero value
// serves nothing; in its Environment kube-proxy's mode is not known. It is not safe for concurrent
// use.
type Manager struct {
	Env plan.Environment
	// Called is called with the name of each method that changes something, before it does; an error
	// makes the method fail.
	Called func(method string) error

	states map[types.UID]direct.State
}

// Environment returns Env.
func (m *Manager) Environment() plan.Environment { return m.Env }

// Current returns what the last Advance made kube-proxy serve.
func (m *Manager) Current(svc *v1.Service, _ []*v1.Node) direct.State { return m.states[svc.UID] }

// Decide chooses datapath direct if the Service wants it and Env allows it.
func (m *Manager) Decide(_ context.Context, svc *v1.Service, o options.Options, p *plan.Plan, current direct.State, _ bool) (direct.Decision, direct.State, error) {
	if !plan.WantsDirect(svc, o) {
		return direct.Decision{}, current, nil
	}
	unavailable := m.Env.CheckDirect(svc, o, p.Conflicts)
	switch {
	case unavailable == nil:
		return direct.Decision{Direct: true, Mirror: p.Mirror}, current, nil
	case o.Datapath == options.DatapathDirect:
		return direct.Decision{}, current, unavailable
	}
	return direct.Decision{FallbackReason: unavailable.Error()}, current, nil
}

// KeepMirror does nothing: a mirror does not change.
func (m *Manager) KeepMirror(context.Context, *v1.Service, direct.State, *plan.Plan) error {
	return nil
}

// NodesToServe returns the planned nodes with datapath direct, else the served nodes without a
// ready proxy.
func (m *Manager) NodesToServe(c direct.Cutover) []*v1.Node {
	if c.Decision.Direct {
		return c.Plan.Nodes
	}
	var nodes []*v1.Node
	for _, node := range c.Nodes {
		if c.Current.Nodes[node.Name] && !publish.ServingNodes(c.Sets)[node.Name] {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// Advance makes kube-proxy serve the nodes. The proxies are obsolete once it served all published
// nodes before.
func (m *Manager) Advance(_ context.Context, c direct.Cutover, status, nodeLocal *v1.LoadBalancerStatus) (proxiesObsolete bool, err error) {
	if err := m.call("direct.Advance"); err != nil {
		return false, err
	}
	if m.states == nil {
		m.states = map[types.UID]direct.State{}
	}
	before := m.states[c.Service.UID].Nodes
	if delete(m.states, c.Service.UID); len(nodeLocal.Ingress) > 0 {
		m.states[c.Service.UID] = direct.State{Mirror: c.Plan.Mirror, Nodes: publish.NodesIn(*nodeLocal, c.Nodes)}
	}
	for name := range publish.NodesIn(*status, c.Nodes) {
		if !before[name] {
			return false, nil
		}
	}
	return c.Decision.Direct && c.HasProxies, nil
}

// MirrorExists reports whether kube-proxy serves the Service.
func (m *Manager) MirrorExists(_ context.Context, svc *v1.Service) (bool, error) {
	return m.states[svc.UID].Any(), nil
}

// DeleteMirror makes kube-proxy stop to serve the Service.
func (m *Manager) DeleteMirror(_ context.Context, svc *v1.Service) error {
	if err := m.call("direct.DeleteMirror"); err != nil {
		return err
	}
	delete(m.states, svc.UID)
	return nil
}

// Forget does nothing: nothing else is remembered.
func (m *Manager) Forget(*v1.Service) {}

// Overridden returns nothing: nobody changes the mirror.
func (m *Manager) Overridden(*v1.Service) []string { return nil }

func (m *Manager) call(method string) error {
	if m.Called == nil {
		return nil
	}
	return m.Called(method)
}
