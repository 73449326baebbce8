package reachability

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

const (
	namespace = "hostport_ccm"
	subsystem = "reachability"
)

var (
	checksTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Namespace:      namespace,
		Subsystem:      subsystem,
		Name:           "checks_total",
		Help:           "Checks whether packets to a node's ports reach its proxy, by result: traffic (clients' packets do), verified, failed, inconclusive, or unread (the proxy's metrics could not be read).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"result"})
	unreachableGauge = metrics.NewGauge(&metrics.GaugeOpts{
		Namespace:      namespace,
		Subsystem:      subsystem,
		Name:           "unreachable_proxies",
		Help:           "Proxies that packets to their nodes do not reach, in some IP family.",
		StabilityLevel: metrics.ALPHA,
	})
	replacedTotal = metrics.NewCounter(&metrics.CounterOpts{
		Namespace:      namespace,
		Subsystem:      subsystem,
		Name:           "replaced_proxies_total",
		Help:           "Proxies that were replaced so that the network plugin installs their nodes' rules again.",
		StabilityLevel: metrics.ALPHA,
	})
)

// unread is the result of a check whose proxy did not answer.
const unread result = "unread"

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(checksTotal, unreachableGauge, replacedTotal)
	// Prometheus sees no increase of a counter that begins at 1.
	for _, r := range []result{byTraffic, verified, failed, inconclusive, unread} {
		checksTotal.WithLabelValues(string(r))
	}
})
