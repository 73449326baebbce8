// Package proxyclient asks proxies for their metrics and their health. Proxies have no access to the
// API server, so hostport-ccm asks them over HTTP, at the addresses of their pods. A proxy that has
// been broken into can answer anything: an answer is limited in size, and what is quoted of it has
// one short line.
package proxyclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/api/core/v1"

	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

const (
	// timeout limits a request, and maxBytes its answer.
	timeout  = 2 * time.Second
	maxBytes = 1 << 20
	// maxReasons is the length in bytes to which the reasons of a proxy are cut.
	maxReasons = 300
)

// ErrNoEndpoint is returned for a pod that does not run, or has no address or no such port.
var ErrNoEndpoint = errors.New("the pod has no such endpoint")

// Client asks proxies. Make it with New. It is safe for concurrent use.
type Client struct{ http *http.Client }

// New returns a Client.
func New() *Client {
	return &Client{&http.Client{
		Timeout: timeout,
		// The addresses are those of pods, so no proxy of the environment applies.
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Metrics returns the metrics of a running proxy by name.
func (c *Client) Metrics(ctx context.Context, proxy *v1.Pod) (map[string]*dto.MetricFamily, error) {
	status, body, err := c.get(ctx, proxy, plan.MetricsFlag, "/metrics")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if status != http.StatusOK {
		return nil, fmt.Errorf("the metrics of pod %s have status %d", proxy.Name, status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(io.LimitReader(body, maxBytes))
}

// NotReady returns why a running proxy is not ready, in quotes and in its own words; an empty string
// if it is ready.
func (c *Client) NotReady(ctx context.Context, proxy *v1.Pod) (reasons string, err error) {
	status, body, err := c.get(ctx, proxy, plan.HealthFlag, "/readyz")
	if err != nil {
		return "", err
	}
	defer body.Close()
	switch status {
	case http.StatusOK:
		return "", nil
	case http.StatusServiceUnavailable:
	default:
		return "", fmt.Errorf("the health of pod %s has status %d", proxy.Name, status)
	}
	text, err := io.ReadAll(io.LimitReader(body, maxBytes))
	if err != nil {
		return "", err
	}
	return strconv.Quote(options.Cut(strings.TrimSpace(strings.TrimPrefix(string(text), proxyconfig.NotReadyPrefix)), maxReasons)), nil
}

// get requests a path at the port that a flag of the proxy has. The caller closes body.
func (c *Client) get(ctx context.Context, proxy *v1.Pod, flag, path string) (status int, body io.ReadCloser, err error) {
	port, found := portOf(proxy, flag)
	if !found || proxy.Status.Phase != v1.PodRunning || proxy.Status.PodIP == "" {
		return 0, nil, ErrNoEndpoint
	}
	url := "http://" + net.JoinHostPort(proxy.Status.PodIP, port) + path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	// The token is the Service's UID. Only health asks for it.
	if flag == plan.HealthFlag {
		request.Header.Set("Authorization", proxyconfig.BearerPrefix+proxy.Labels[plan.LabelServiceUID])
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	return response.StatusCode, response.Body, nil
}

func portOf(proxy *v1.Pod, flag string) (port string, found bool) {
	if len(proxy.Spec.Containers) == 0 {
		return "", false
	}
	for _, arg := range proxy.Spec.Containers[0].Args {
		if port, found := strings.CutPrefix(arg, flag); found {
			return port, true
		}
	}
	return "", false
}

// Labels returns the labels of a metric by name.
func Labels(metric *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, label := range metric.GetLabel() {
		labels[label.GetName()] = label.GetValue()
	}
	return labels
}
