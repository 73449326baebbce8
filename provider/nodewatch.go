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

// nodeWatch knows of nodes that died before Kubernetes does.
type nodeWatch interface {
	// Mask shows those nodes as not Ready.
	Mask(nodes []*v1.Node) []*v1.Node
	// Follow has tell called with every verdict, and with those in force.
	Follow(tell func(failover.Verdict))
}

// noWatch takes the nodes for what Kubernetes says they are.
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

// tellOf returns what makes verdicts felt: an event on the Node, and a new look
// at all Services.
func tellOf(recorder record.EventRecorder, services *trigger.Services) func(failover.Verdict) {
	return func(v failover.Verdict) {
		// The kubelet's own events also have the name for UID.
		node := &v1.ObjectReference{Kind: "Node", Name: v.Node, UID: types.UID(v.Node)}
		if v.Down {
			recorder.Event(node, v1.EventTypeWarning, reasonNodeDown, v.Message)
		} else {
			recorder.Event(node, v1.EventTypeNormal, reasonNodeBack, v.Message)
		}
		services.PokeAll()
	}
}
