package failover

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var (
	nodesGauge = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Namespace:      "hostport_ccm",
		Subsystem:      "failover",
		Name:           "nodes",
		Help:           "Ready nodes by what hostport-ccm observes of them: answering, unresponsive, down, or unreached if they never answered.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"state"})
	transitionsTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Namespace:      "hostport_ccm",
		Subsystem:      "failover",
		Name:           "transitions_total",
		Help:           "Nodes that went down or came up, by the new state: down or up.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"to"})
)

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(nodesGauge, transitionsTotal)
	// Prometheus sees no increase of a counter that begins at 1.
	for _, to := range []string{"down", "up"} {
		transitionsTotal.WithLabelValues(to)
	}
})
