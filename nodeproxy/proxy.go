// Package nodeproxy forwards a Service's ports from the pod it runs in to the
// Service's cluster IP, with the kernel's packet filter: no packet passes
// through the process. It keeps the rules as the config file says, repairs them,
// and is ready only while they are verified to be in the kernel.
//
// It talks to no API server; what to forward comes from a file (package config).
// What rules that takes is computed in package rules, and package kernel is the
// way to the real kernel.
package nodeproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	// HealthPort is the TCP port of the health endpoints, which no Service port
	// may have.
	HealthPort uint16
	// SyncPeriod is how often the config is read and the rules are verified
	// without a reason.
	SyncPeriod time.Duration
	// IPv4Only leaves the config's IPv6 to other proxies.
	IPv4Only bool
}

const (
	// retryDelay is the pause after a pass that failed.
	retryDelay = 500 * time.Millisecond
	// flushPasses is how many passes after a change look for stale flows: a
	// packet that was on its way while the rules changed may leave one behind
	// after the first look.
	flushPasses = 2
	// handshake is what a TCP connection that was under way to a target that
	// answers gets to be answered, before it counts as stale: deleting its entry
	// would cost it a second.
	handshake = time.Second
)

// Proxy keeps the kernel as the config says.
type Proxy struct {
	options Options
	kernel  Kernel
	source  source
	config  config.Config
	// configErr is why the config file is not what is in force, if it is not.
	configErr error
	tables    map[config.Family]*tables
	// absent are the families that were not usable when nobody asked for them.
	absent  map[config.Family]bool
	flushes int
	// answerBy is when TCP connections that were under way at the last change
	// must have been answered; zero after stale ones were flushed.
	answerBy time.Time
	// drain is the config's drain time, for Run.
	drain atomic.Int64
	// resetStep and resetTimeout are the constants of these names.
	resetStep, resetTimeout time.Duration

	health  *health
	metrics *metrics
}

// New returns a Proxy for a config that can be read and is valid now.
func New(options Options, kernel Kernel) (*Proxy, error) {
	p := &Proxy{
		options: options,
		kernel:  kernel,
		source:  source{path: options.ConfigFile, healthPort: options.HealthPort, ipv4Only: options.IPv4Only},
		tables:  map[config.Family]*tables{},
		absent:  map[config.Family]bool{},
		health:  newHealth(time.Now()),
		metrics: newMetrics(),

		resetStep:    resetStep,
		resetTimeout: resetTimeout,
	}
	first, _, err := p.source.load()
	if err != nil {
		return nil, err
	}
	p.accept(first)
	return p, nil
}

// Run syncs until ctx ends, for the drain time that the config then says, and
// until it has said farewell to connections. It returns soon after that even if
// a pass hangs: the pod's grace period is far too long to be waited out. The
// rules stay in the kernel, which removes them with the pod's network namespace.
func (p *Proxy) Run(ctx context.Context) {
	background := context.WithoutCancel(ctx)
	serving, stop := context.WithCancel(background)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.loop(serving)
		p.resetConnections(background)
	}()
	<-ctx.Done()
	p.health.drain()
	p.metrics.set(readyGauge, 0)
	drain := time.Duration(p.drain.Load())
	klog.FromContext(ctx).Info("Shutting down", "drain", drain)
	time.Sleep(drain - p.resetStep) // the farewell's first step is still part of it
	stop()
	select {
	case <-ended:
	case <-time.After(2*p.resetStep + p.resetTimeout):
		klog.FromContext(ctx).Info("Not waiting for a sync that hangs")
	}
}

// loop makes passes until ctx ends, the last one to its end.
func (p *Proxy) loop(ctx context.Context) {
	wake := p.source.watch(ctx)
	for ctx.Err() == nil {
		next := time.NewTimer(p.pass(context.WithoutCancel(ctx)))
		select {
		case <-wake:
		case <-next.C:
		case <-ctx.Done():
		}
		next.Stop()
	}
}

// pass reads the config, makes the kernel follow it, and returns when to do so
// again.
func (p *Proxy) pass(ctx context.Context) time.Duration {
	p.reload(ctx)
	result, err := p.sync(ctx)
	p.report(ctx, err)
	if err != nil {
		result = "failed"
	}
	p.metrics.add(syncs, 1, "result", result)
	p.health.pass(time.Now())
	if err != nil {
		return min(retryDelay, p.options.SyncPeriod)
	}
	return p.options.SyncPeriod
}

// reload takes over a changed config; an invalid one changes nothing.
func (p *Proxy) reload(ctx context.Context) {
	next, changed, err := p.source.load()
	switch {
	case !changed:
	case err != nil:
		if p.configErr == nil || p.configErr.Error() != err.Error() {
			klog.FromContext(ctx).Error(err, "Config cannot be used, the last valid one stays in force")
		}
		p.configErr = err
		p.metrics.set(configValid, 0)
	default:
		klog.FromContext(ctx).V(2).Info("Config read", "service", next.Service, "ports", next.Ports, "clusterIPs", next.ClusterIPs, "sourceRanges", next.SourceRanges)
		p.accept(next)
	}
}

func (p *Proxy) accept(c config.Config) {
	p.config, p.configErr = c, nil
	p.drain.Store(int64(c.Drain()))
	p.metrics.set(configValid, 1)
	p.metrics.add(configGen, 1)
}

// report tells the probes, and the log when something became different.
func (p *Proxy) report(ctx context.Context, err error) {
	var reasons []string
	if err != nil {
		reasons = strings.Split(err.Error(), "\n")
	}
	changed := p.health.set(reasons)
	p.metrics.set(readyGauge, p.health.readiness())
	if !changed {
		return
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Not ready", "service", p.config.Service)
		return
	}
	klog.FromContext(ctx).Info("Ready", "service", p.config.Service)
}

// sync makes the kernel follow the config in force. Its result is unchanged,
// changed or repaired.
func (p *Proxy) sync(ctx context.Context) (result string, err error) {
	addrs, err := p.kernel.Addresses()
	if err != nil {
		return "", err
	}
	result = "unchanged"
	var failures []error
	for _, family := range config.Families {
		did, err := p.syncFamily(ctx, family, addrs)
		if err != nil {
			failures = append(failures, err)
		}
		if did != "" {
			result = did
		}
	}
	p.flush(ctx, addrs)
	return result, errors.Join(failures...)
}

// syncFamily first programs the rules and then switches forwarding on, so that
// nothing is ever forwarded without them.
func (p *Proxy) syncFamily(ctx context.Context, family config.Family, addrs []netip.Addr) (did string, err error) {
	_, served := p.config.ClusterIP(family)
	if p.absent[family] && !served {
		return "", nil
	}
	t, err := p.tablesOf(ctx, family)
	// A kernel without IPv6 is no fault as long as IPv6 is not asked for.
	if p.absent[family] = err != nil; err != nil && !served {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if did, err = p.syncRules(ctx, t, rules.Wanted(p.config, family, addrs)); err != nil {
		return "", fmt.Errorf("%s rules: %w", family, err)
	}
	if !served {
		return did, nil
	}
	if !hasFamily(addrs, family) {
		return did, fmt.Errorf("the Service has an %s cluster IP, but this pod has no %s address; remove the family from the Service's ipFamilies or add it to the cluster's pod network", family, family)
	}
	return did, p.forward(ctx, family)
}

func hasFamily(addrs []netip.Addr, family config.Family) bool {
	for _, addr := range addrs {
		if config.FamilyOf(addr) == family {
			return true
		}
	}
	return false
}

// tablesOf returns the family's tables; which iptables works is found out once.
func (p *Proxy) tablesOf(ctx context.Context, family config.Family) (*tables, error) {
	if t := p.tables[family]; t != nil {
		return t, nil
	}
	iptables, err := p.kernel.Iptables(ctx, family)
	if err != nil {
		return nil, err
	}
	klog.FromContext(ctx).V(2).Info("Found iptables", "family", family, "flavour", iptables.Flavour())
	p.metrics.set(flavourInfo, 1, "family", string(family), "flavour", iptables.Flavour())
	p.tables[family] = &tables{iptables: iptables}
	return p.tables[family], nil
}

func (p *Proxy) syncRules(ctx context.Context, t *tables, want rules.Ruleset) (did string, err error) {
	installed, err := t.read(ctx)
	if err != nil {
		return "", err
	}
	differences := t.differences(want, installed)
	if len(differences) == 0 {
		p.metrics.count(want.Family, want.Counts(installed))
		return "", nil
	}
	did = "changed"
	if t.programmed(want) {
		did = "repaired"
		p.health.set(differences) // before it is counted: who sees the count and Ready knows that it is over
		p.metrics.add(ruleRepairs, 1, "family", string(want.Family))
	}
	klog.FromContext(ctx).Info("Programming rules", "family", want.Family, "reasons", differences)
	p.flushes, p.answerBy = flushPasses, time.Now().Add(handshake)
	p.metrics.programmed(want.Family)
	return did, t.program(ctx, want, installed)
}

func (p *Proxy) forward(ctx context.Context, family config.Family) error {
	changed, err := p.kernel.Forward(family)
	if len(changed) > 0 {
		klog.FromContext(ctx).Info("Switched forwarding on", "family", family, "interfaces", changed)
	}
	return err
}

// flush deletes stale flows for some passes after a change. A failure is
// retried and shown in the metrics; it keeps nobody from being served who
// connects anew.
func (p *Proxy) flush(ctx context.Context, addrs []netip.Addr) {
	tcp := !p.answerBy.IsZero() && time.Now().After(p.answerBy)
	if p.flushes == 0 && !tcp {
		return
	}
	p.flushes = max(0, p.flushes-1)
	failed := false
	for _, family := range config.Families {
		if _, served := p.config.ClusterIP(family); !served {
			continue
		}
		n, err := p.kernel.Flush(family, func(flow rules.Flow) bool {
			return (tcp || flow.Protocol != "TCP") && rules.Stale(p.config, addrs, flow)
		})
		p.metrics.add(flushedFlows, uint64(n))
		if err != nil {
			klog.FromContext(ctx).Error(err, "Old flows may go on to an old target; will retry")
			p.metrics.add(flushFailures, 1)
			failed = true
		}
	}
	switch {
	case failed:
		p.flushes = flushPasses
	case tcp:
		p.answerBy = time.Time{}
	}
}
