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
		Help:           "Nodes that Kubernetes takes for Ready, by what we observe of them: answering, silent, down, or unreached if they never answered.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"state"})
	verdictsTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Namespace:      "hostport_ccm",
		Subsystem:      "failover",
		Name:           "verdicts_total",
		Help:           "Times that a node was declared down or back.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"verdict"})
)

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(nodesGauge, verdictsTotal) })
