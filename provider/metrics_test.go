package provider

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/hostport-ccm/hostport-ccm/firewall/operations"
	"github.com/hostport-ccm/hostport-ccm/internal/metricstest"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

func counts(t *testing.T, metric, label string) map[string]float64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == metric && m.GetLabel()[0].GetName() == label {
				got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return got
}

// It does not run in parallel with tests that run the controller.
func TestSyncsAndFirewallChangesAreCounted(t *testing.T) {
	registerMetrics()
	syncs, changes := counts(t, "hostport_ccm_syncs_total", "result"), counts(t, "hostport_ccm_firewall_changes_total", "cause")
	countSync(nil)
	countSync(errors.New("down"))
	countSync(fmt.Errorf("draining: %w", view.ErrDeletionInProgress))
	countFirewallChanges(operations.Result{Changes: []string{"a", "b"}})
	countFirewallChanges(operations.Result{Changes: []string{"c"}, Repaired: true})
	countFirewallChanges(operations.Result{Repaired: true})
	for label, want := range map[string]float64{"success": 1, "error": 1} {
		if got := counts(t, "hostport_ccm_syncs_total", "result")[label] - syncs[label]; got != want {
			t.Errorf("syncs with result %s: %v, want %v", label, got, want)
		}
	}
	for label, want := range map[string]float64{"service": 2, "repair": 1} {
		if got := counts(t, "hostport_ccm_firewall_changes_total", "cause")[label] - changes[label]; got != want {
			t.Errorf("changes for cause %s: %v, want %v", label, got, want)
		}
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	synced := func() bool { return true }
	exposeInventory(ctx, synced, func() inventory { return inventory{warnings: map[string]int{"PortConflict": 1}} })
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Documented(t, families, "hostport_ccm_service", "hostport_ccm_published_", "hostport_ccm_proxies", "hostport_ccm_syncs_", "hostport_ccm_firewall_")
	stop()
	for got := 1; got > 0; {
		got = len(counts(t, "hostport_ccm_services", "state"))
	}
}
