package gce

import (
	"testing"
	"time"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/hostport-ccm/hostport-ccm/internal/metricstest"
)

func TestMetricsAreDocumented(t *testing.T) {
	observe("GET", time.Now(), nil)
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Documented(t, families, "hostport_ccm_gce_")
}
