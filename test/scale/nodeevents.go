package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// nodeEvents measures what happens to one node after the other.
func (m *measurement) nodeEvents(ctx context.Context) error {
	publishedNode, other := m.publishedAndOther()
	if publishedNode == nil {
		return errors.New("no node is published")
	}
	if other != nil {
		if err := m.setReady(ctx, otherDown, other.Name, false); err != nil {
			return err
		}
	}
	if err := m.setReady(ctx, down, publishedNode.Name, false); err != nil {
		return err
	}
	if err := m.setReady(ctx, up, publishedNode.Name, true); err != nil {
		return err
	}
	if publishedNode, _ = m.publishedAndOther(); publishedNode == nil {
		return errors.New("no node is published")
	}
	if err := m.changeAddress(ctx, publishedNode); err != nil {
		return err
	}
	if publishedNode, _ = m.publishedAndOther(); publishedNode == nil {
		return errors.New("no node is published")
	}
	if err := m.deleteNode(ctx, publishedNode); err != nil {
		return err
	}
	if other != nil { // kwok leaves it as it is, and the next scene needs it.
		if _, err := m.patchReady(ctx, other.Name, true); err != nil {
			return err
		}
	}
	return m.verifyRest(ctx)
}

// publishedAndOther returns the node that most Services publish, and one that none does; nil if there
// is none.
func (m *measurement) publishedAndOther() (most, none *v1.Node) {
	services := map[string]int{}
	for _, addresses := range publishedBy(m.allServices()) {
		for _, ip := range addresses {
			services[ip]++
		}
	}
	best := 0
	for _, n := range m.allNodes() {
		switch count := services[addressOf(n, v1.NodeExternalIP)]; {
		case count > best:
			most, best = n, count
		case count == 0:
			none = n
		}
	}
	return most, none
}

// setReady changes the condition Ready of a Node, as its kubelet does.
func (m *measurement) setReady(ctx context.Context, name, node string, ready bool) error {
	before := publishedBy(m.allServices())
	_, err := m.phase(ctx, name, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		patched, err := m.patchReady(ctx, node, ready)
		if err != nil {
			return began, err
		}
		return began, m.seen(ctx, node, func(n *v1.Node) bool { return n != nil && sameReady(n, patched) })
	}, m.right(before))
	return err
}

func (m *measurement) patchReady(ctx context.Context, node string, ready bool) (*v1.Node, error) {
	status := map[bool]string{true: "True", false: "False"}[ready]
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q,"reason":"ScaleTest","lastTransitionTime":%q}]}}`,
		status, time.Now().UTC().Format(time.RFC3339))
	return m.client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
}

func sameReady(a, b *v1.Node) bool {
	return len(goodNodes([]*v1.Node{a})) == len(goodNodes([]*v1.Node{b}))
}

// changeAddress gives the machine of a node another external address. The time counts from when the
// Node has it, as hostport-ccm reads addresses periodically.
func (m *measurement) changeAddress(ctx context.Context, n *v1.Node) error {
	in, err := m.instanceOf(ctx, n)
	if err != nil {
		return err
	}
	before := publishedBy(m.allServices())
	_, err = m.phase(ctx, renumbered, func(ctx context.Context) (time.Time, error) {
		address := changedAddress(in)
		if err := m.sim.PatchInstance(ctx, in.Zone, in.Name, map[string]any{"natIP": address}); err != nil {
			return time.Time{}, err
		}
		err := m.seen(ctx, n.Name, func(n *v1.Node) bool { return n != nil && addressOf(n, v1.NodeExternalIP) == address })
		return time.Now(), err
	}, m.right(before))
	return err
}

func (m *measurement) deleteNode(ctx context.Context, n *v1.Node) error {
	in, err := m.instanceOf(ctx, n)
	if err != nil {
		return err
	}
	before := publishedBy(m.allServices())
	_, err = m.phase(ctx, gone, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		if err := m.removeNode(ctx, in); err != nil {
			return began, err
		}
		return began, m.seen(ctx, n.Name, func(n *v1.Node) bool { return n == nil })
	}, m.right(before))
	return err
}

// seen waits until the cache shows a node, nil if it has none, as wanted.
func (m *measurement) seen(ctx context.Context, name string, wanted func(*v1.Node) bool) error {
	return await(ctx, "change of node "+name, func(context.Context) error {
		n, _ := m.nodes.Get(name) // From the cache: an error means that there is none.
		if !wanted(n) {
			return errors.New("not seen")
		}
		return nil
	})
}

func (m *measurement) instanceOf(ctx context.Context, n *v1.Node) (gcesim.Instance, error) {
	state, err := m.sim.State(ctx)
	if err != nil {
		return gcesim.Instance{}, err
	}
	for _, in := range state.Instances {
		if in.Name == n.Name {
			return in, nil
		}
	}
	return gcesim.Instance{}, fmt.Errorf("node %s has no machine", n.Name)
}
