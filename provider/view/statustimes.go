package view

import (
	"encoding/json"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var statusDuration = metrics.NewHistogram(&metrics.HistogramOpts{
	Namespace:      "hostport_ccm",
	Name:           "status_update_duration_seconds",
	Help:           "Time from the last event that a status depends on, such as a proxy that becomes ready, until the API server has stored the addresses that follow from it.",
	Buckets:        []float64{0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60},
	StabilityLevel: metrics.ALPHA,
})

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(statusDuration) })

// statusTimes measures how long it takes from an event to the status that follows from it. Events that
// come before a sync begins count from the first of them. An event without a new status does not count.
type statusTimes struct {
	now     func() time.Time
	observe func(time.Duration)

	mu sync.Mutex
	// waiting has the time of the first event that no sync of the Service has considered yet, and
	// considered that of those which the present sync considers, or failed ones before it.
	waiting, considered map[types.NamespacedName]time.Time
}

func newStatusTimes() *statusTimes {
	registerMetrics()
	return &statusTimes{
		now:     time.Now,
		observe: func(d time.Duration) { statusDuration.Observe(d.Seconds()) },
		waiting: map[types.NamespacedName]time.Time{}, considered: map[types.NamespacedName]time.Time{},
	}
}

// happened records an event after which a Service is synced.
func (t *statusTimes) happened(service types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, earlier := t.waiting[service]; !earlier {
		t.waiting[service] = t.now()
	}
}

// begins records that a sync begins, which considers all events until now.
func (t *statusTimes) begins(service types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, found := t.waiting[service]; found {
		if _, failed := t.considered[service]; !failed {
			t.considered[service] = at
		}
		delete(t.waiting, service)
	}
}

// unchanged records that a sync has ended without another status.
func (t *statusTimes) unchanged(service types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.considered, service)
}

// wrote records that the status was written.
func (t *statusTimes) wrote(service types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, found := t.considered[service]; found {
		t.observe(t.now().Sub(at))
		delete(t.considered, service)
	}
}

// forget deletes the record of a Service that is not synced.
func (t *statusTimes) forget(service types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiting, service)
	delete(t.considered, service)
}

// changesStatus reports whether a patch changes the status, and not only finalizers.
func changesStatus(patch []byte) bool {
	var p struct{ Status json.RawMessage }
	return json.Unmarshal(patch, &p) == nil && len(p.Status) > 0
}

// ObserveStatusTimes has each measured time passed to observe as well, for tests. It is called before
// the informers start.
func (s *Services) ObserveStatusTimes(observe func(time.Duration)) {
	expose := s.times.observe
	s.times.observe = func(d time.Duration) { expose(d); observe(d) }
}

// SyncBegins says that the service controller ensures a Service.
func (s *Services) SyncBegins(service types.NamespacedName) { s.times.begins(service) }

// StatusUnchanged says that a Service has been ensured and keeps its status.
func (s *Services) StatusUnchanged(service types.NamespacedName) { s.times.unchanged(service) }
