package saturation

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/time/rate"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

const gaugeTypes = "# TYPE " + connectionsGauge + " gauge\n# TYPE " + limitGauge + " gauge\n"

// sample returns the two gauges of a port.
func sample(family, port string, connections, limit int) string {
	labels := fmt.Sprintf(`{family=%q,protocol="TCP",port=%q}`, family, port)
	return fmt.Sprintf(gaugeTypes+"%s%s %d\n%s%s %d\n", connectionsGauge, labels, connections, limitGauge, labels, limit)
}

func TestPortsAreNearlyFullFrom80PercentOn(t *testing.T) {
	const other = "# HELP hostport_nodeproxy_ready 1 if ready\n# TYPE hostport_nodeproxy_ready gauge\nhostport_nodeproxy_ready 1\n"
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"nothing":            {"", nil},
		"before the count":   {other, nil},
		"below":              {sample("IPv4", "443", 51_609, 64_512), nil},
		"at":                 {sample("IPv4", "443", 51_610, 64_512), []string{"port 443/TCP over IPv4 51610 of 64512"}},
		"full":               {sample("IPv6", "80", 64_512, 64_512), []string{"port 80/TCP over IPv6 64512 of 64512"}},
		"without a limit":    {gaugeTypes + connectionsGauge + `{family="IPv4",protocol="TCP",port="80"} 64512` + "\n", nil},
		"a limit of none":    {sample("IPv4", "80", 0, 0), nil},
		"of one port of two": {other + gaugeTypes + connectionsGauge + `{family="IPv4",protocol="TCP",port="80"} 9` + "\n" + connectionsGauge + `{family="IPv4",protocol="UDP",port="80"} 1` + "\n" + limitGauge + `{family="IPv4",protocol="TCP",port="80"} 10` + "\n" + limitGauge + `{family="IPv4",protocol="UDP",port="80"} 10` + "\n", []string{"port 80/TCP over IPv4 9 of 10"}},
		"an unknown value":   {gaugeTypes + connectionsGauge + `{family="IPv4",protocol="TCP",port="80"} NaN` + "\n" + limitGauge + `{family="IPv4",protocol="TCP",port="80"} 10` + "\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			parser := expfmt.NewTextParser(model.UTF8Validation)
			families, err := parser.TextToMetricFamilies(strings.NewReader(c.text))
			if diff := cmp.Diff(c.want, nearlyFull(families)); diff != "" || err != nil {
				t.Errorf("(-want +got, error %v):\n%s", err, diff)
			}
		})
	}
}

func TestAWarningNamesFiveNodes(t *testing.T) {
	var nodes []string
	for i := range 7 {
		nodes = append(nodes, fmt.Sprint("node n", i, ": port 80/TCP over IPv4 9 of 10"))
	}
	message := warnings(nodes)[0].Message
	if !strings.Contains(message, nodes[4]) || strings.Contains(message, nodes[5]) || !strings.Contains(message, "and 2 more nodes") || len(message) > events.MaxMessage {
		t.Errorf("got %s", message)
	}
}

// cluster is a Service with a proxy whose metrics a test serves.
type cluster struct {
	monitor *Monitor
	svc     *v1.Service
	proxy   *v1.Pod
	// text and status are what the proxy returns, and requests how often it was asked.
	text     string
	status   int
	requests int
	events   chan string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{status: http.StatusOK}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.requests++
		if r.URL.Path != "/metrics" {
			t.Errorf("a request for %s", r.URL)
		}
		w.WriteHeader(c.status)
		_, _ = w.Write([]byte(c.text))
	}))
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.svc = &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "web", UID: "u"}}
	c.proxy = &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{plan.LabelServiceNamespace: "apps", plan.LabelServiceName: "web", plan.LabelServiceUID: "u"}},
		Spec:       v1.PodSpec{NodeName: "n1", Containers: []v1.Container{{Args: []string{"--v=1", plan.MetricsFlag + port}}}},
		Status:     v1.PodStatus{Phase: v1.PodRunning, PodIP: host},
	}
	recorder := record.NewFakeRecorder(10)
	c.events = recorder.Events
	service := func(name types.NamespacedName) *v1.Service {
		if name == (types.NamespacedName{Namespace: "apps", Name: "web"}) {
			return c.svc
		}
		return nil
	}
	c.monitor = New(func() []*v1.Pod { return []*v1.Pod{c.proxy} }, service, events.NewRecorder(recorder, nil))
	c.monitor.limiter = rate.NewLimiter(rate.Inf, 1)
	return c
}

// round runs a round and returns the event that it records; empty for none.
func (c *cluster) round(t *testing.T) string {
	t.Helper()
	c.monitor.round(t.Context())
	select {
	case event := <-c.events:
		return event
	default:
		return ""
	}
}

func TestAServiceGetsOneEventWhileItsProxyIsNearlyFull(t *testing.T) {
	c := newCluster(t)
	if event := c.round(t); event != "" {
		t.Errorf("got %s", event)
	}
	c.text = sample("IPv4", "443", 60_000, 64_512)
	if event := c.round(t); !strings.HasPrefix(event, "Warning "+Reason) || !strings.Contains(event, "node n1: port 443/TCP over IPv4 60000 of 64512") {
		t.Errorf("got %q", event)
	}
	c.text = sample("IPv4", "443", 61_000, 64_512)
	if event := c.round(t); event != "" {
		t.Errorf("the same warning again: %s", event)
	}
	c.text = sample("IPv4", "443", 1, 64_512)
	c.round(t)
	c.text = sample("IPv4", "443", 60_000, 64_512)
	if event := c.round(t); event == "" {
		t.Error("no warning when the port is full again")
	}
}

func TestAServiceThatLosesItsProxiesHasNoWarning(t *testing.T) {
	c := newCluster(t)
	c.text = sample("IPv4", "443", 60_000, 64_512)
	c.round(t)
	c.proxy.Status.Phase = v1.PodPending
	c.round(t)
	c.proxy.Status.Phase = v1.PodRunning
	if event := c.round(t); event == "" {
		t.Error("no warning when it has proxies again")
	}
}

func TestOnlyRunningProxiesOfTheServiceAreRead(t *testing.T) {
	for name, change := range map[string]func(*cluster){
		"a pending pod":         func(c *cluster) { c.proxy.Status.Phase = v1.PodPending },
		"without an address":    func(c *cluster) { c.proxy.Status.PodIP = "" },
		"without a flag":        func(c *cluster) { c.proxy.Spec.Containers[0].Args = nil },
		"without a container":   func(c *cluster) { c.proxy.Spec.Containers = nil },
		"of a Service before":   func(c *cluster) { c.proxy.Labels[plan.LabelServiceUID] = "before" },
		"of an unknown Service": func(c *cluster) { c.proxy.Labels[plan.LabelServiceName] = "other" },
	} {
		c := newCluster(t)
		c.text = sample("IPv4", "443", 10, 10)
		change(c)
		if event := c.round(t); event != "" || c.requests > 0 {
			t.Errorf("%s: %d requests, event %q", name, c.requests, event)
		}
	}
}
