package nodeproxy_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

func (p *testProxy) get(path string) (status int, body string) {
	handler := p.HealthHandler()
	if path == "/metrics" {
		handler = p.MetricsHandler()
	}
	return request(handler, path, "Bearer "+p.options.HealthToken)
}

func request(handler http.Handler, path, authorization string) (status int, body string) {
	recorder, request := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
	request.Header.Set("Authorization", authorization)
	handler.ServeHTTP(recorder, request)
	return recorder.Code, recorder.Body.String()
}

func TestHealthIsOnlyForThoseWhoHaveTheToken(t *testing.T) {
	p := newTestProxyWith(t, web, func(options *nodeproxy.Options, _ *nodeproxy.Kernel) { options.HealthToken = "secret" })
	p.Sync(t.Context())
	for _, path := range []string{"/readyz", "/healthz"} {
		for authorization, want := range map[string]int{"Bearer secret": 200, "Bearer secre": 403, "Bearer secrets": 403, "Bearer ": 403, "secret": 403, "": 403} {
			if got, body := request(p.HealthHandler(), path, authorization); got != want {
				t.Errorf("%s with %q: %d %s, want %d", path, authorization, got, body, want)
			}
		}
	}
	if got, _ := request(p.MetricsHandler(), "/metrics", ""); got != 200 {
		t.Errorf("/metrics without a token: %d", got)
	}
}

func TestHealthAndMetricsAreApart(t *testing.T) {
	p := newTestProxy(t, web)
	for path, handler := range map[string]http.Handler{"/metrics": p.HealthHandler(), "/readyz": p.MetricsHandler(), "/healthz": p.MetricsHandler()} {
		if got, _ := request(handler, path, ""); got != 404 {
			t.Errorf("%s of the other endpoint: %d, want 404", path, got)
		}
	}
}

// portOnly is a config whose only port is TCP port n.
func portOnly(n uint16) config.Config {
	c := web
	c.Ports = []config.Port{{Protocol: "TCP", Port: n}}
	return c
}
