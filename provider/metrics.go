package provider

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/hostport-ccm/hostport-ccm/firewall/operations"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

const metricsNamespace = "hostport_ccm"

var (
	syncsTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Namespace:      metricsNamespace,
		Name:           "syncs_total",
		Help:           "Syncs and deletions of Services, by result: success or error. After an error the next attempt follows within 5 minutes.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"result"})
	firewallChangesTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Namespace:      metricsNamespace,
		Subsystem:      "firewall",
		Name:           "changes_total",
		Help:           "Changes of firewall rules for Services that exist, by cause: service (the Service or its nodes need it) or repair (somebody else had changed the rule).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"cause"})
)

// The metrics that are computed when they are asked for.
var (
	servicesDesc = metrics.NewDesc(metrics.BuildFQName(metricsNamespace, "", "services"),
		"Services that are served, by state: published, pending (no address), conflict (another has some of its ports), refused (asks for what is not possible), or deleting.", []string{"state"}, nil, metrics.ALPHA, "")
	addressesDesc = metrics.NewDesc(metrics.BuildFQName(metricsNamespace, "", "published_addresses"),
		"Addresses in the statuses of all Services that are served.", nil, nil, metrics.ALPHA, "")
	warningsDesc = metrics.NewDesc(metrics.BuildFQName(metricsNamespace, "", "service_warnings"),
		"Services with a warning that holds now, by the reason of its event.", []string{"reason"}, nil, metrics.ALPHA, "")
	proxiesDesc = metrics.NewDesc(metrics.BuildFQName(metricsNamespace, "", "proxies"),
		"Proxies by state: ready, not_ready, or terminating, which drain their connections.", []string{"state"}, nil, metrics.ALPHA, "")
)

// leading counts what is served while this replica leads, else it is nil.
var leading atomic.Pointer[func() inventory]

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(syncsTotal, firewallChangesTotal)
	for _, result := range []string{"success", "error"} {
		syncsTotal.WithLabelValues(result)
	}
	for _, cause := range []string{"service", "repair"} {
		firewallChangesTotal.WithLabelValues(cause)
	}
	legacyregistry.CustomMustRegister(&collector{count: func() (inventory, bool) {
		count := leading.Load()
		if count == nil {
			return inventory{}, false
		}
		return (*count)(), true
	}})
})

// exposeInventory exposes what count returns from when the caches have synced until ctx is done.
func exposeInventory(ctx context.Context, synced cache.InformerSynced, count func() inventory) {
	registerMetrics()
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		return
	}
	leading.Store(&count)
	context.AfterFunc(ctx, func() { leading.CompareAndSwap(&count, nil) })
}

// countSync counts a sync of a Service, unless it waits for an operation.
func countSync(err error) {
	if errors.Is(err, view.ErrDeletionInProgress) {
		return
	}
	registerMetrics()
	result := "success"
	if err != nil {
		result = "error"
	}
	syncsTotal.WithLabelValues(result).Inc()
}

func countFirewallChanges(result operations.Result) {
	registerMetrics()
	cause := "service"
	if result.Repaired {
		cause = "repair"
	}
	firewallChangesTotal.WithLabelValues(cause).Add(float64(len(result.Changes)))
}

// collector computes metrics from an inventory. Without one, as on a replica that does not lead, there
// are none: two replicas would report each Service twice.
type collector struct {
	metrics.BaseStableCollector
	count func() (inventory, bool)
}

// DescribeWithStability implements metrics.StableCollector.
func (c *collector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, desc := range []*metrics.Desc{servicesDesc, addressesDesc, warningsDesc, proxiesDesc} {
		ch <- desc
	}
}

// CollectWithStability implements metrics.StableCollector.
func (c *collector) CollectWithStability(ch chan<- metrics.Metric) {
	inventory, known := c.count()
	if !known {
		return
	}
	gauge := func(desc *metrics.Desc, n int, labels ...string) {
		ch <- metrics.NewLazyConstMetric(desc, metrics.GaugeValue, float64(n), labels...)
	}
	for _, state := range serviceStates {
		gauge(servicesDesc, inventory.services[state], string(state))
	}
	for _, state := range proxyStates {
		gauge(proxiesDesc, inventory.proxies[state], string(state))
	}
	for reason, services := range inventory.warnings {
		gauge(warningsDesc, services, reason)
	}
	gauge(addressesDesc, inventory.addresses)
}
