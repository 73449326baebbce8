package view

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/hostport-ccm/hostport-ccm/internal/metricstest"
)

func TestTheTimeToTheStatusCountsFromTheFirstEventThatASyncConsiders(t *testing.T) {
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	type step func(*statusTimes)
	var (
		happened  step = func(s *statusTimes) { s.happened(web) }
		begins    step = func(s *statusTimes) { s.begins(web) }
		unchanged step = func(s *statusTimes) { s.unchanged(web) }
		wrote     step = func(s *statusTimes) { s.wrote(web) }
		forget    step = func(s *statusTimes) { s.forget(web) }
	)
	// Each step is a second after the one before.
	for name, c := range map[string]struct {
		steps []step
		want  []time.Duration
	}{
		"one event":                             {[]step{happened, begins, wrote}, []time.Duration{2 * time.Second}},
		"two events before the sync":            {[]step{happened, happened, begins, wrote}, []time.Duration{3 * time.Second}},
		"an event that changes nothing":         {[]step{happened, begins, unchanged, happened, begins, wrote}, []time.Duration{2 * time.Second}},
		"an event during the sync":              {[]step{happened, begins, happened, wrote, begins, wrote}, []time.Duration{3 * time.Second, 3 * time.Second}},
		"an attempt that fails before":          {[]step{happened, begins, begins, wrote}, []time.Duration{3 * time.Second}},
		"an event after an attempt that failed": {[]step{happened, begins, happened, begins, wrote, begins, wrote}, []time.Duration{4 * time.Second}},
		"a write without an event":              {[]step{begins, wrote}, nil},
		"a Service that is deleted":             {[]step{happened, begins, happened, forget, begins, wrote}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			times, now := newStatusTimes(), time.Unix(0, 0)
			var got []time.Duration
			times.now, times.observe = func() time.Time { return now }, func(d time.Duration) { got = append(got, d) }
			for _, s := range c.steps {
				s(times)
				now = now.Add(time.Second)
			}
			if !slices.Equal(got, c.want) || len(times.waiting)+len(times.considered) > 0 {
				t.Errorf("measured %v, want %v; left over %v and %v", got, c.want, times.waiting, times.considered)
			}
		})
	}
}

func TestAPatchOfFinalizersIsNoStatus(t *testing.T) {
	for patch, want := range map[string]bool{
		`{"metadata":{"finalizers":["a"]}}`:                          false,
		`{"status":{"loadBalancer":{"ingress":[{"ip":"1.2.3.4"}]}}}`: true,
		`{"status":{"loadBalancer":null}}`:                           true,
	} {
		if got := changesStatus([]byte(patch)); got != want {
			t.Errorf("%s: %t", patch, got)
		}
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	newStatusTimes()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Documented(t, families, "hostport_ccm_status_")
}
