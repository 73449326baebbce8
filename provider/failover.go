package provider

import (
	"context"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	appconfig "k8s.io/cloud-provider/app/config"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/failover"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// failureDetector detects failed nodes sooner than Kubernetes does. A *failover.Monitor is one.
type failureDetector interface {
	OverlayNotReady(nodes []*v1.Node) []*v1.Node
	Subscribe(notify func(failover.Transition))
	// Generation changes whenever OverlayNotReady may return other nodes.
	Generation() uint64
}

// noFailureDetection detects nothing.
var noFailureDetection failureDetector = (*failover.Monitor)(nil)

// detectFailures starts to probe the nodes, if so configured, until ctx is done. Every replica
// does: a node that a replica has never reached counts as unknown, and the replica that takes over
// when the leader's own node has failed must know that node.
func (c *Cloud) detectFailures(ctx context.Context, completed *appconfig.CompletedConfig) {
	if c.config.LoadBalancer.Failover != config.FailoverFast {
		return
	}
	monitor := failover.New(completed.ClientBuilder.ClientOrDie("node-watch"), completed.SharedInformers.Core().V1().Nodes())
	completed.SharedInformers.Start(ctx.Done())
	go monitor.Run(ctx)
	c.failures = monitor
}

// onTransition records a transition as an event on the Node and enqueues the Services that it concerns.
func onTransition(recorder *events.Recorder, w watches, t failover.Transition) {
	// The kubelet's own events also have the name as UID.
	node := &v1.ObjectReference{Kind: "Node", Name: t.Node, UID: types.UID(t.Node)}
	if t.Down {
		recorder.Event(node, v1.EventTypeWarning, events.NodeDown, t.Message())
	} else {
		recorder.Event(node, v1.EventTypeNormal, events.NodeUp, t.Message())
	}
	// The monitor is locked, and a snapshot asks it.
	go w.enqueueConcerned(t.Node)
}

// enqueueConcerned enqueues the Services that the health of a node concerns.
func (w watches) enqueueConcerned(node string) {
	if n := w.nodeNamed(node); n != nil {
		w.services.EnqueueConcerned(snapshot.NodeChange{Before: n, After: n})
	}
}
