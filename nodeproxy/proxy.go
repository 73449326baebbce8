// Package nodeproxy forwards a Service's ports from the pod that it runs in to
// the Service's cluster IP. The kernel's packet filter forwards the packets;
// none passes through the process. The proxy installs the rules that its config
// requires, verifies and repairs them, and is ready only while the kernel has
// them.
//
// The proxy does not use the Kubernetes API. Its config is a file (package
// config). Package rules computes the rules, and package kernel accesses the
// kernel.
package nodeproxy

import (
	"context"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// Options are the proxy's settings.
type Options struct {
	// ConfigFile is the path of the config file.
	ConfigFile string
	// HealthPort and MetricsPort are the TCP ports of the endpoints. No Service port
	// may be the same.
	HealthPort, MetricsPort uint16
	// HealthToken is what requests for health have to bring as a bearer token. If it is
	// empty, everybody is answered.
	HealthToken string
	// SyncPeriod is the time between two syncs when nothing changes. Each looks for changes, without
	// starting a process if there are none.
	SyncPeriod time.Duration
	// IPv4Only ignores the config's IPv6 cluster IP, which other proxies serve.
	IPv4Only bool
}

// retryDelay is the time between a sync that failed and the next one.
const retryDelay = 500 * time.Millisecond

// Proxy makes the kernel forward what the config requires.
type Proxy struct {
	kernel     Kernel
	syncPeriod time.Duration
	token      string
	file       configFile
	// config is the last valid content of the file, and in force. configErr is the
	// error of the present content, if it is not valid.
	config    config.Config
	configErr error
	// drain is the drain time of config, for Run.
	drain atomic.Int64

	// addrs are the pod's addresses. wanted are the rules for them and config, as far as they have been
	// computed; it is nil after a change of config.
	addrs  []netip.Addr
	wanted map[config.Family]*rules.Ruleset
	// networkChecked means that addrs are current and forwarding is on, unless the kernel tells of a
	// change.
	networkChecked bool

	tables map[config.Family]*tables
	// unsupported has the families without a working iptables.
	unsupported map[config.Family]bool
	// flushes is the number of syncs that still have to delete stale UDP flows.
	flushes int
	// flushTCPAfter is when to delete stale TCP connections too. It is zero when
	// this is done.
	flushTCPAfter time.Time

	// countFlowsAfter is when to count flows again for the log. crowded describes the ports that had
	// almost no source port left at the last count.
	countFlowsAfter time.Time
	crowded         []string

	// lastResult is the result of the last sync.
	lastResult string

	resetStep, resetTimeout time.Duration

	health   *health
	metrics  *metrics
	counters *counters
	flows    *flowCounter
}

// New returns a Proxy. It fails if the config file cannot be read or is not
// valid.
func New(options Options, kernel Kernel) (*Proxy, error) {
	m := newMetrics()
	p := &Proxy{
		kernel:       kernel,
		syncPeriod:   options.SyncPeriod,
		token:        options.HealthToken,
		file:         configFile{options: options},
		tables:       map[config.Family]*tables{},
		unsupported:  map[config.Family]bool{},
		resetStep:    resetStep,
		resetTimeout: resetTimeout,
		health:       newHealth(time.Now()),
		metrics:      m,
		counters:     newCounters(m),
		flows:        &flowCounter{kernel: kernel, metrics: m},
	}
	first, _, err := p.file.load()
	if err != nil {
		return nil, err
	}
	p.useConfig(first)
	return p, nil
}

// Run syncs until ctx ends and the config's drain time after it is over. Then it
// resets connections and returns. If a sync hangs, Run does not wait for it, as
// the pod's grace period is much longer than its drain time. The rules stay
// installed until the kernel deletes the pod's network namespace.
func (p *Proxy) Run(ctx context.Context) {
	background := context.WithoutCancel(ctx)
	serving, stop := context.WithCancel(background)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.syncLoop(serving)
		p.resetConnections(background)
	}()
	<-ctx.Done()
	p.health.drain()
	p.metrics.set(readyGauge, 0)
	drain := time.Duration(p.drain.Load())
	klog.FromContext(ctx).Info("Shutting down", "drain", drain)
	time.Sleep(drain - p.resetStep) // the reset's first step is part of the drain time
	stop()
	select {
	case <-ended:
	case <-time.After(2*p.resetStep + p.resetTimeout):
		klog.FromContext(ctx).Info("Not waiting for a sync that hangs")
	}
}

// syncLoop syncs until ctx ends. It always completes the last sync.
func (p *Proxy) syncLoop(ctx context.Context) {
	p.setTimeouts(ctx)
	fileChanged := p.file.watch(ctx)
	for ctx.Err() == nil {
		next := time.NewTimer(p.sync(context.WithoutCancel(ctx)))
		select {
		case <-fileChanged:
		case <-next.C:
		case <-ctx.Done():
		}
		next.Stop()
	}
}

// setTimeouts makes entries of half-open and dead connections go sooner. Where the kernel cannot do
// so, the proxy serves with the kernel's timeouts, and a metric shows it.
func (p *Proxy) setTimeouts(ctx context.Context) {
	err := p.kernel.SetTCPTimeouts(rules.Timeouts)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Half-open and dead connections will use up source ports for longer")
		p.metrics.set(timeoutsSet, 0)
		return
	}
	p.metrics.set(timeoutsSet, 1)
}

// sync reads the config, applies it to the kernel, and updates health and
// metrics. It returns the time until the next sync.
func (p *Proxy) sync(ctx context.Context) time.Duration {
	p.reloadConfig(ctx)
	result, err := p.apply(ctx)
	next := p.syncPeriod
	var reasons []string
	if err != nil {
		result, next = "failed", min(retryDelay, p.syncPeriod)
		reasons = strings.Split(err.Error(), "\n")
	}
	changed := p.health.setNotReady(reasons)
	p.metrics.set(readyGauge, p.health.readiness())
	if changed && err != nil {
		klog.FromContext(ctx).Error(err, "Not ready", "service", p.config.Service)
	} else if changed {
		klog.FromContext(ctx).Info("Ready", "service", p.config.Service)
	}
	p.metrics.add(syncs, 1, "result", result)
	if result == "unchanged" && p.lastResult != result {
		debug.FreeOSMemory() // The change took more memory than the time until the next one.
	}
	p.lastResult = result
	p.health.progressed(time.Now())
	return next
}

// reloadConfig reads the config file. Content that is not valid changes nothing.
func (p *Proxy) reloadConfig(ctx context.Context) {
	next, changed, err := p.file.load()
	switch {
	case !changed:
	case err != nil:
		if p.configErr == nil || p.configErr.Error() != err.Error() {
			klog.FromContext(ctx).Error(err, "Config cannot be used, the last valid one stays in force")
		}
		p.configErr = err
		p.metrics.set(configValid, 0)
	default:
		klog.FromContext(ctx).V(2).Info("Config read", "service", next.Service, "ports", len(next.Ports), "clusterIPs", next.ClusterIPs, "sourceRanges", len(next.SourceRanges))
		p.useConfig(next)
	}
}

func (p *Proxy) useConfig(c config.Config) {
	p.config, p.configErr, p.wanted = c, nil, nil
	p.countFlowsAfter = time.Time{}
	p.drain.Store(int64(c.Drain()))
	p.metrics.set(configValid, 1)
	p.metrics.add(configGen, 1)
}
