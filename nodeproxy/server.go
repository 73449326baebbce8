package nodeproxy

import (
	"net/http"
	"time"
)

// liveness is how long after its last pass the sync loop counts as wedged. A
// pass may wait for iptables' lock or time-outs several times.
func (p *Proxy) liveness() time.Duration { return time.Minute + 3*p.options.SyncPeriod }

// Handler serves /readyz (readiness: the rules are verified and forwarding is
// on), /healthz (liveness: the sync loop runs) and /metrics.
func (p *Proxy) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, p.health.ready())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, p.health.live(time.Now(), p.liveness()))
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		p.metrics.write(w)
	})
	return mux
}

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(err.Error() + "\n"))
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}
