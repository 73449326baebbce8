package nodeproxy

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// HealthHandler serves /readyz (the rules are verified and forwarding is on) and
// /healthz (the sync loop makes progress) to those who have the token.
func (p *Proxy) HealthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, p.health.ready())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, p.health.live(time.Now(), p.liveness()))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, want := r.Header.Get("Authorization"), config.BearerPrefix+p.token
		if p.token != "" && subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 0 {
			http.Error(w, "only the kubelet is answered; metrics have a port of their own", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// MetricsHandler serves /metrics. Without the kernel's counters, it leaves them out.
func (p *Proxy) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		var except []metric
		if err := p.counters.update(r.Context()); err != nil {
			// Values of earlier would say that no packet has arrived since.
			klog.FromContext(r.Context()).Error(err, "Metrics lack the counters of ports")
			except = kernelCounters
		}
		p.flows.update(r.Context())
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		p.metrics.write(w, except)
	})
	return mux
}

// liveness is how long after its last progress the proxy counts as live. A step of
// a sync can wait several times for iptables' lock or a timeout.
func (p *Proxy) liveness() time.Duration { return time.Minute + 3*p.syncPeriod }

func respond(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

// health is the state that the probes report. It is safe for concurrent use.
type health struct {
	mu sync.Mutex
	// notReady are the reasons why the proxy is not ready.
	notReady []string
	draining bool
	// lastProgress is when a step of a sync ended last, or when the process started.
	lastProgress time.Time
}

func newHealth(now time.Time) *health {
	return &health{lastProgress: now, notReady: []string{"the first sync has not finished"}}
}

// setNotReady replaces the reasons why the proxy is not ready, and reports
// whether they differ from the earlier ones. Without reasons it is ready.
func (h *health) setNotReady(reasons []string) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = !slices.Equal(h.notReady, reasons)
	h.notReady = reasons
	return changed
}

// progressed records that a step of a sync has ended, with or without an error.
func (h *health) progressed(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastProgress = now
}

// drain makes the proxy not ready from now on.
func (h *health) drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// ready returns an error that says why the proxy is not ready, nil if it is.
func (h *health) ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	reasons := h.notReady
	if h.draining {
		reasons = append([]string{"shutting down, connections are being drained"}, reasons...)
	}
	if len(reasons) == 0 {
		return nil
	}
	return errors.New(config.NotReadyPrefix + strings.Join(reasons, "; "))
}

// readiness returns 1 if the proxy is ready, else 0.
func (h *health) readiness() uint64 {
	if h.ready() != nil {
		return 0
	}
	return 1
}

// live returns an error if no step of a sync has ended for longer than limit.
func (h *health) live(now time.Time, limit time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if age := now.Sub(h.lastProgress); age > limit {
		return fmt.Errorf("the last step of a sync ended %s ago, which must not be more than %s", age.Round(time.Second), limit)
	}
	return nil
}
