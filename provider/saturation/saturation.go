// Package saturation records an event on a Service when a proxy has almost as many connections to a
// port as it can have. Proxies have no access to the API server, so their metrics are read.
package saturation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"golang.org/x/time/rate"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/proxyclient"
)

const (
	// period is the time from the end of a round over all proxies to the begin of the next.
	period = 15 * time.Second
	// perSecond is how many proxies are asked in a second, so that the work does not grow with their
	// number: with more than 150, a round takes longer.
	perSecond = 10
	// percent is how full a port is when it is reported.
	percent = 80
	// maxNodes is how many nodes an event names.
	maxNodes = 5
)

// Reason is the reason of the event.
const Reason = "ProxyNearlyFull"

// The gauges of a proxy that are read. Both have the labels family, protocol and port.
const (
	connectionsGauge = "hostport_nodeproxy_port_tracked_connections"
	limitGauge       = "hostport_nodeproxy_port_tracked_connections_limit"
)

var readsTotal = metrics.NewCounterVec(&metrics.CounterOpts{
	Namespace:      "hostport_ccm",
	Subsystem:      "saturation",
	Name:           "reads_total",
	Help:           "Attempts to read the metrics of a proxy, by result: success or failure.",
	StabilityLevel: metrics.ALPHA,
}, []string{"result"})

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(readsTotal)
	// Prometheus sees no increase of a counter that begins at 1.
	for _, result := range []string{"success", "failure"} {
		readsTotal.WithLabelValues(result)
	}
})

// Monitor reads the metrics of all proxies in turn. Make it with New.
type Monitor struct {
	proxies func() []*v1.Pod
	service func(types.NamespacedName) *v1.Service
	events  *events.Recorder
	client  *proxyclient.Client
	limiter *rate.Limiter
	// asked are the Services whose proxies were asked in the last round.
	asked map[types.UID]*v1.Service
}

// New returns a Monitor. proxies returns all proxies in any state, and service the Service of a name,
// or nil. recorder must be for this monitor alone, as it holds the warnings of the last round.
func New(proxies func() []*v1.Pod, service func(types.NamespacedName) *v1.Service, recorder *events.Recorder) *Monitor {
	registerMetrics()
	return &Monitor{
		proxies: proxies,
		service: service,
		events:  recorder,
		client:  proxyclient.New(),
		limiter: rate.NewLimiter(perSecond, 1),
	}
}

// Run reads all metrics repeatedly until ctx is done.
func (m *Monitor) Run(ctx context.Context) {
	wait.JitterUntilWithContext(ctx, m.round, period, 0.1, true)
}

func (m *Monitor) round(ctx context.Context) {
	services, full := map[types.UID]*v1.Service{}, map[types.UID][]string{}
	for _, proxy := range m.proxies() {
		svc := m.service(plan.ServiceOf(proxy))
		if svc == nil || proxy.Status.Phase != v1.PodRunning || string(svc.UID) != proxy.Labels[plan.LabelServiceUID] {
			continue
		}
		if err := m.limiter.Wait(ctx); err != nil {
			return
		}
		families, err := m.client.Metrics(ctx, proxy)
		if errors.Is(err, proxyclient.ErrNoEndpoint) {
			continue
		}
		services[svc.UID] = svc
		if err != nil {
			readsTotal.WithLabelValues("failure").Inc()
			klog.FromContext(ctx).V(2).Info("Cannot read the metrics of a proxy", "pod", klog.KObj(proxy), "err", err)
			continue
		}
		readsTotal.WithLabelValues("success").Inc()
		if ports := nearlyFull(families); len(ports) > 0 {
			full[svc.UID] = append(full[svc.UID], fmt.Sprintf("node %s: %s", proxy.Spec.NodeName, strings.Join(ports, ", ")))
		}
	}
	for uid, svc := range services {
		delete(m.asked, uid)
		m.events.Warn(svc, warnings(full[uid]))
	}
	for _, svc := range m.asked { // They have no proxies any more.
		m.events.Warn(svc, nil)
	}
	m.asked = services
}

// nearlyFull describes the ports that have at least percent of the connections that they can have, by
// the metrics of a proxy.
func nearlyFull(families map[string]*dto.MetricFamily) (full []string) {
	limits := map[string]float64{}
	for _, metric := range families[limitGauge].GetMetric() {
		limits[portOf(metric)] = metric.GetGauge().GetValue()
	}
	for _, metric := range families[connectionsGauge].GetMetric() {
		port, connections := portOf(metric), metric.GetGauge().GetValue()
		if limit := limits[port]; limit > 0 && connections*100 >= limit*percent {
			full = append(full, fmt.Sprintf("%s %.0f of %.0f", port, connections, limit))
		}
	}
	return full
}

// portOf names the port of a metric, such as "port 443/TCP over IPv4".
func portOf(metric *dto.Metric) string {
	labels := proxyclient.Labels(metric)
	return fmt.Sprintf("port %s/%s over %s", labels["port"], labels["protocol"], labels["family"])
}

// warnings returns the warning about the nodes of a Service with ports that are nearly full.
func warnings(nodes []string) []events.Warning {
	if len(nodes) == 0 {
		return nil
	}
	more := ""
	if n := len(nodes) - maxNodes; n > 0 {
		nodes, more = nodes[:maxNodes], fmt.Sprintf("; and %d more nodes", n)
	}
	return []events.Warning{{
		Reason:  Reason,
		Message: fmt.Sprintf("Proxies have almost as many connections as they can have (%s%s). When a port is full, new connections to it fail: let more nodes serve the Service, or limit the connections of a client", strings.Join(nodes, "; "), more),
		Key:     "full", // The numbers change in each round.
	}}
}
