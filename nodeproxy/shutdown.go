package nodeproxy

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

const (
	// resetStep is how long each of the two steps of resetConnections lasts: long
	// enough for short connections to end, and for hosts to send a packet on those
	// in use. They retransmit what is not acknowledged within a few tenths of a
	// second.
	resetStep = time.Second
	// resetTimeout is how long resetConnections may take beyond its steps. After it, the proxy
	// ends anyway.
	resetTimeout = 5 * time.Second
)

// resetConnections resets the TCP connections in use through the pod. Once the
// pod is gone, the node drops their packets, and clients would wait for
// timeouts. A reset ends the connection for the client and for the node's
// connection tracking.
//
// The pod still serves connections that begin meanwhile. Possibly no other proxy
// serves them, and before a kube-proxy in mode nftables the pod gets new
// connections until it is removed. The first step, at the end of the drain time,
// gives short connections time to end.
func (p *Proxy) resetConnections(ctx context.Context) {
	if mark := min(time.Duration(p.drain.Load()), p.resetStep); mark > 0 {
		p.installUnconfirmed(ctx, rules.ShutdownMark)
		time.Sleep(mark)
	}
	klog.FromContext(ctx).Info("Resetting connections")
	p.installUnconfirmed(ctx, rules.ShutdownReset)
	time.Sleep(p.resetStep)
}

// installUnconfirmed installs the rules that build returns. It only logs an error: the proxy is
// about to end, and clients then wait for their timeouts.
func (p *Proxy) installUnconfirmed(ctx context.Context, build func(config.Config, config.Family, []netip.Addr) rules.Ruleset) {
	addrs, err := p.kernel.Addresses()
	failures := []error{err}
	if err == nil {
		for family, t := range p.tables {
			installed, err := t.read(ctx)
			if err == nil {
				p.counters.installing(family, installed)
				err = t.iptables.Restore(ctx, build(p.config, family, addrs).Restore(installed))
			}
			failures = append(failures, err)
		}
	}
	if err := errors.Join(failures...); err != nil {
		klog.FromContext(ctx).Error(err, "Clients may not learn that their connections have ended")
	}
}
