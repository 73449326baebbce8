package garbage

import (
	"testing"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/hostport-ccm/hostport-ccm/internal/metricstest"
)

func TestMetricsAreDocumented(t *testing.T) {
	registerMetrics()
	orphansDeleted.WithLabelValues("firewall rules")
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Documented(t, families, "hostport_ccm_orphans_")
}
