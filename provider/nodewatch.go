package provider

import (
	"context"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	appconfig "k8s.io/cloud-provider/app/config"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/failover"
	"github.com/hostport-ccm/hostport-ccm/provider/trigger"
)

// nodeWatch is a failover.Monitor.
type nodeWatch interface {
	OverlayNotReady(nodes []*v1.Node) []*v1.Node
	Subscribe(notify func(failover.Transition))
}

// noWatch detects nothing.
var noWatch nodeWatch = (*failover.Monitor)(nil)

// watchNodes starts to watch the nodes, if so configured, until ctx is done.
// Every replica does, as one that has never reached a node says nothing about
// it: the one that takes over after the leader's own node died has to know
// that node.
func (c *Cloud) watchNodes(ctx context.Context, completed *appconfig.CompletedConfig) {
	if c.config.LoadBalancer.Failover != config.FailoverFast {
		return
	}
	monitor := failover.New(completed.ClientBuilder.ClientOrDie("node-watch"), completed.SharedInformers.Core().V1().Nodes())
	completed.SharedInformers.Start(ctx.Done())
	go monitor.Run(ctx)
	c.watch = monitor
}

// onTransition returns a function that records a transition as an event on the Node and enqueues all
// Services.
func onTransition(recorder record.EventRecorder, services *trigger.Services) func(failover.Transition) {
	return func(t failover.Transition) {
		// The kubelet's own events also have the name for UID.
		node := &v1.ObjectReference{Kind: "Node", Name: t.Node, UID: types.UID(t.Node)}
		if t.Down {
			recorder.Event(node, v1.EventTypeWarning, reasonNodeDown, t.Message())
		} else {
			recorder.Event(node, v1.EventTypeNormal, reasonNodeBack, t.Message())
		}
		services.PokeAll()
	}
}
