package main

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// writes counts the requests of the controllers that change something, and refuses them from stop on.
// The service controller of k8s.io/cloud-provider does not wait for its workers when it ends, as of
// v0.37.2, and some of what they write does not end with their context.
type writes struct {
	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup
}

var errStopped = errors.New("hostport-ccm is shutting down and writes nothing any more")

// stop refuses new writes, and waits until those under way have ended, at most for limit. It reports
// whether they have.
func (w *writes) stop(limit time.Duration) (ended bool) {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	idle := make(chan struct{})
	go func() {
		w.running.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return true
	case <-time.After(limit):
		return false
	}
}

func (w *writes) begin() (allowed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.running.Add(1)
	}
	return !w.stopped
}

// wrap is a transport.WrapperFunc.
func (w *writes) wrap(next http.RoundTripper) http.RoundTripper { return countedTransport{w, next} }

type countedTransport struct {
	writes *writes
	next   http.RoundTripper
}

// RoundTrip returns when the API server has answered, so a write has ended then.
func (t countedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if !isWrite(request) {
		return t.next.RoundTrip(request)
	}
	if !t.writes.begin() {
		if request.Body != nil {
			_ = request.Body.Close() // As http.RoundTripper demands.
		}
		return nil, errStopped
	}
	defer t.writes.running.Done()
	return t.next.RoundTrip(request)
}

// isWrite leaves out the lease of leader election, which is renewed until it is released.
func isWrite(request *http.Request) bool {
	return !slices.Contains([]string{http.MethodGet, http.MethodHead}, request.Method) &&
		!strings.HasPrefix(request.URL.Path, "/apis/coordination.k8s.io/")
}
