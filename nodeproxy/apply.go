package nodeproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

const (
	// flushSyncs is the number of syncs after a change that delete stale flows. A
	// packet in flight while the rules change can create one after the first.
	flushSyncs = 2
	// handshakeTime is how long a TCP connection that begins before a change may
	// take until its target answers. After it, the connection counts as stale. To
	// delete its entry earlier would cost the client a retransmission after a
	// second.
	handshakeTime = time.Second
	// unwatchedSyncs is the number of sync periods after which rules are read again where the kernel
	// does not tell whether they have changed.
	unwatchedSyncs = 5
)

// apply makes the kernel follow the config in force. Its result is unchanged,
// changed or repaired.
func (p *Proxy) apply(ctx context.Context) (result string, err error) {
	if p.kernel.NetworkChanged() || p.wanted == nil {
		p.networkChecked = false
	}
	addrs := p.addrs
	if !p.networkChecked {
		if addrs, err = p.kernel.Addresses(); err != nil {
			return "", err
		}
	}
	if p.wanted == nil || !slices.Equal(addrs, p.addrs) {
		p.addrs, p.wanted = addrs, map[config.Family]*rules.Ruleset{}
		p.flows.wanted.Store(&flowTarget{p.config, addrs})
	}
	result = "unchanged"
	var failures []error
	for _, family := range config.Families {
		change, err := p.applyFamily(ctx, family)
		p.health.progressed(time.Now())
		failures = append(failures, err)
		if change != "" {
			result = change
		}
	}
	p.flush(ctx)
	p.warnOfCrowdedPorts(ctx)
	err = errors.Join(failures...)
	p.networkChecked = err == nil
	return result, err
}

// applyFamily installs the rules before it switches forwarding on, so that
// nothing is forwarded without them.
func (p *Proxy) applyFamily(ctx context.Context, family config.Family) (change string, err error) {
	_, served := p.config.ClusterIP(family)
	if p.unsupported[family] && !served {
		return "", nil
	}
	t, err := p.tablesOf(ctx, family)
	p.unsupported[family] = err != nil
	p.health.progressed(time.Now())
	if err != nil && !served { // a kernel without IPv6, which the Service does not need
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if change, err = p.applyRules(ctx, t, p.rulesFor(family)); err != nil {
		if p.config.MaxConnectionsPerClient > 0 {
			err = fmt.Errorf("%w; the limit of connections per client needs the kernel module xt_connlimit on this node", err)
		}
		return "", fmt.Errorf("%s rules: %w", family, err)
	}
	if !served || p.networkChecked {
		return change, nil
	}
	if !slices.ContainsFunc(p.addrs, func(addr netip.Addr) bool { return config.FamilyOf(addr) == family }) {
		return change, fmt.Errorf("the Service has an %s cluster IP, but this pod has no %s address; remove the family from the Service's ipFamilies or add it to the cluster's pod network", family, family)
	}
	interfaces, err := p.kernel.Forward(family)
	if len(interfaces) > 0 {
		klog.FromContext(ctx).Info("Switched forwarding on", "family", family, "interfaces", interfaces)
	}
	return change, err
}

// tablesOf returns the family's tables. It searches for a working iptables until
// there is one.
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

// rulesFor returns the rules that the config requires. They are computed when the config or an
// address has changed; if they are those that are applied, it returns the same pointer.
func (p *Proxy) rulesFor(family config.Family) *rules.Ruleset {
	if p.wanted[family] == nil {
		want := rules.Wanted(p.config, family, p.addrs)
		p.wanted[family] = &want
		if applied := p.tables[family].applied; applied != nil && reflect.DeepEqual(*applied, want) {
			p.wanted[family] = applied
		}
	}
	return p.wanted[family]
}

// applyRules installs the wanted rules unless they are installed. change is "" if they are,
// "repaired" if they were installed last and have been changed since, and else "changed".
func (p *Proxy) applyRules(ctx context.Context, t *tables, want *rules.Ruleset) (change string, err error) {
	if t.applied == want && t.unchanged(unwatchedSyncs*p.syncPeriod) {
		return "", nil
	}
	before := t.state()
	installed, err := t.read(ctx)
	if err != nil {
		return "", err
	}
	change, reasons := "changed", []string{"the rules for this config are not installed yet"}
	if t.applied == want {
		change, reasons = "repaired", t.differences(installed)
	}
	if len(reasons) == 0 {
		t.verified = before
		return "", nil
	}
	if change == "repaired" {
		// In this order, a reader of the metrics who sees the repair counted and the
		// proxy ready knows that the repair is complete.
		p.health.setNotReady(reasons)
		p.metrics.add(ruleRepairs, 1, "family", string(want.Family))
	}
	klog.FromContext(ctx).Info("Installing rules", "family", want.Family, "reasons", reasons)
	p.flushes, p.flushTCPAfter = flushSyncs, time.Now().Add(handshakeTime)
	p.counters.installing(want.Family, installed)
	if err := t.install(ctx, want, installed); err != nil {
		return change, err
	}
	p.counters.installed(t.iptables, want)
	return change, nil
}

// flush deletes stale flows after a change. If that fails, the next syncs try
// again and the metrics show it. The proxy stays ready, as new flows are not
// affected.
func (p *Proxy) flush(ctx context.Context) {
	tcp := !p.flushTCPAfter.IsZero() && time.Now().After(p.flushTCPAfter)
	if p.flushes == 0 && !tcp {
		return
	}
	p.flushes = max(0, p.flushes-1)
	failed, matcher := false, rules.NewMatcher(p.config, p.addrs)
	for _, family := range config.Families {
		if _, served := p.config.ClusterIP(family); !served {
			continue
		}
		n, err := p.kernel.Flush(family, func(flow rules.Flow) bool {
			return (tcp || flow.Protocol == "UDP") && matcher.Stale(flow)
		})
		p.metrics.add(flushedFlows, uint64(n))
		if err != nil {
			klog.FromContext(ctx).Error(err, "Existing flows may still go to an earlier target; will retry")
			p.metrics.add(flushFailures, 1)
			failed = true
		}
	}
	if failed {
		p.flushes = flushSyncs
	} else if tcp {
		p.flushTCPAfter = time.Time{}
	}
}
