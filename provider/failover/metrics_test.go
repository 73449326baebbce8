package failover

import (
	"testing"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/hostport-ccm/hostport-ccm/internal/metricstest"
)

func TestMetricsAreDocumented(t *testing.T) {
	registerMetrics()
	nodesGauge.WithLabelValues(string(down))
	transitionsTotal.WithLabelValues("down")
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Documented(t, families, "hostport_ccm_failover_")
}
