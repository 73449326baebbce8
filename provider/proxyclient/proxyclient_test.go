package proxyclient

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// answer is what a proxy answers.
type answer struct {
	status int
	text   string
}

// serve returns a proxy that answers requests for a path with the token, and the number of requests.
func serve(t *testing.T, path, authorization string, a *answer) (proxy *v1.Pod, requests *int) {
	t.Helper()
	requests = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*requests++
		if r.URL.Path != path || r.Header.Get("Authorization") != authorization {
			t.Errorf("a request for %s with authorization %q", r.URL, r.Header.Get("Authorization"))
		}
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.text))
	}))
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{plan.LabelServiceUID: "u"}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Args: []string{"--v=1", plan.MetricsFlag + port, plan.HealthFlag + port}}}},
		Status:     v1.PodStatus{Phase: v1.PodRunning, PodIP: host},
	}, requests
}

func TestTheMetricsOfAProxyAreRead(t *testing.T) {
	a := &answer{http.StatusOK, "# TYPE x counter\nx{port=\"80\"} 3\n"}
	proxy, _ := serve(t, "/metrics", "", a)
	got, err := New().Metrics(t.Context(), proxy)
	if err != nil {
		t.Fatal(err)
	}
	if m := got["x"].GetMetric()[0]; m.GetCounter().GetValue() != 3 || Labels(m)["port"] != "80" {
		t.Errorf("got %v", got)
	}
}

func TestWhatIsNoMetricsIsAnError(t *testing.T) {
	const metrics = "# TYPE x counter\nx 3\n"
	for name, a := range map[string]answer{
		"not found":  {http.StatusNotFound, metrics},
		"a redirect": {http.StatusFound, metrics},
		"JSON":       {http.StatusOK, "{}"},
		"HTML":       {http.StatusOK, "<html>\n"},
		"too long":   {http.StatusOK, strings.Repeat("x", maxBytes+1)},
	} {
		proxy, requests := serve(t, "/metrics", "", &a)
		if got, err := New().Metrics(t.Context(), proxy); err == nil || *requests != 1 {
			t.Errorf("%s: got %v after %d requests", name, got, *requests)
		}
	}
}

func TestTheReasonsOfAProxyAreQuotedInOneShortLine(t *testing.T) {
	for name, c := range map[string]struct {
		answer
		want string
	}{
		"ready":          {answer{http.StatusOK, "ok\n"}, ""},
		"not ready":      {answer{http.StatusServiceUnavailable, "not ready: no chain; no forwarding\n"}, `"no chain; no forwarding"`},
		"several lines":  {answer{http.StatusServiceUnavailable, "not ready: a\nWarning b\n"}, `"a\nWarning b"`},
		"control codes":  {answer{http.StatusServiceUnavailable, "\x1b[2J\xff"}, `"\x1b[2J\xff"`},
		"a long text":    {answer{http.StatusServiceUnavailable, strings.Repeat("x", 1000)}, `"` + strings.Repeat("x", maxReasons-len("…(cut: 300 of 1000 bytes)")) + `…(cut: 300 of 1000 bytes)"`},
		"an empty text":  {answer{http.StatusServiceUnavailable, ""}, `""`},
		"an endless one": {answer{http.StatusServiceUnavailable, strings.Repeat("x", maxBytes+1)}, `"` + strings.Repeat("x", maxReasons-len("…(cut: 300 of 1048576 bytes)")) + `…(cut: 300 of 1048576 bytes)"`},
	} {
		proxy, _ := serve(t, "/readyz", "Bearer u", &c.answer)
		if got, err := New().NotReady(t.Context(), proxy); err != nil || got != c.want {
			t.Errorf("%s: got %s, want %s (%v)", name, got, c.want, err)
		}
	}
	proxy, _ := serve(t, "/readyz", "Bearer u", &answer{http.StatusForbidden, "not ready"})
	if got, err := New().NotReady(t.Context(), proxy); err == nil {
		t.Errorf("a refusal is quoted as the proxy's reason: %s", got)
	}
}

func TestOnlyARunningPodWithTheFlagIsAsked(t *testing.T) {
	for name, change := range map[string]func(*v1.Pod){
		"a pending pod":       func(p *v1.Pod) { p.Status.Phase = v1.PodPending },
		"without an address":  func(p *v1.Pod) { p.Status.PodIP = "" },
		"without a flag":      func(p *v1.Pod) { p.Spec.Containers[0].Args = nil },
		"without a container": func(p *v1.Pod) { p.Spec.Containers = nil },
	} {
		proxy, requests := serve(t, "/metrics", "", &answer{http.StatusOK, ""})
		change(proxy)
		if _, err := New().Metrics(t.Context(), proxy); !errors.Is(err, ErrNoEndpoint) || *requests > 0 {
			t.Errorf("%s: %v after %d requests", name, err, *requests)
		}
	}
}
