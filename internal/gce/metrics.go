package gce

import (
	"strings"
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var requestDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace:      "hostport_ccm",
	Subsystem:      "gce",
	Name:           "request_duration_seconds",
	Help:           "Time of one request to the Compute API by method, and of one whole change by method/operation; result is ok or the kind of error.",
	Buckets:        []float64{0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128},
	StabilityLevel: metrics.ALPHA,
}, []string{"verb", "result"})

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(requestDuration) })

// observe measures a call that began at start.
func observe(verb string, start time.Time, err error) {
	registerMetrics()
	result := "ok"
	if kind := KindOf(err); kind != "" {
		result = strings.ReplaceAll(string(kind), " ", "_")
	}
	requestDuration.WithLabelValues(verb, result).Observe(time.Since(start).Seconds())
}
