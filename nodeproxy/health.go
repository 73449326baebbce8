package nodeproxy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// health is what the probes are told. It is safe for concurrent use.
type health struct {
	mu sync.Mutex
	// notReady are the reasons for not being ready.
	notReady []string
	draining bool
	// passed is when the last pass ended, or when the process started.
	passed time.Time
}

func newHealth(now time.Time) *health {
	return &health{passed: now, notReady: []string{"the first sync has not finished"}}
}

// set replaces the reasons for not being ready and returns whether they are
// others than before. None: ready.
func (h *health) set(notReady []string) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = !slices.Equal(h.notReady, notReady)
	h.notReady = notReady
	return changed
}

// pass notes that a pass has ended, however it went.
func (h *health) pass(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.passed = now
}

// drain makes the proxy not ready for good, while it goes on serving.
func (h *health) drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// ready returns why the proxy is not ready, nil if it is.
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
	return fmt.Errorf("not ready: %s", strings.Join(reasons, "; "))
}

// readiness is 1 if the proxy is ready, else 0.
func (h *health) readiness() uint64 {
	if h.ready() != nil {
		return 0
	}
	return 1
}

// live returns an error if no pass has ended for longer than limit.
func (h *health) live(now time.Time, limit time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if age := now.Sub(h.passed); age > limit {
		return fmt.Errorf("the last sync ended %s ago, which must not be more than %s", age.Round(time.Second), limit)
	}
	return nil
}
