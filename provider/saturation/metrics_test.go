package saturation

import (
	"testing"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/hostport-ccm/hostport-ccm/internal/metricstest"
)

func TestMetricsAreDocumented(t *testing.T) {
	registerMetrics()
	readsTotal.WithLabelValues("success")
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Documented(t, families, "hostport_ccm_saturation_")
}
