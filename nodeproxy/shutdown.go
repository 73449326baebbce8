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
	// resetStep is how long each of the farewell's two steps lasts. It is time
	// enough for short connections to end that began before it, and for those in
	// use to send a packet: what is not answered is sent again within a few
	// tenths of a second.
	resetStep = time.Second
	// resetTimeout is how much longer than it should the farewell may take
	// before the proxy ends without.
	resetTimeout = 5 * time.Second
)

// resetConnections resets the TCP connections through the pod that are in use. When the
// pod is gone, the node sends their packets to nobody, so that clients would wait
// for time-outs; a reset tells them, and the node's connection tracking, that
// they have ended. Connections that begin during the farewell are served: there
// may be nobody else who does, and in front of a kube-proxy in mode nftables the
// pod gets new ones until it is removed. A first step, at the end of the drain
// time, lets short ones end that began before.
func (p *Proxy) resetConnections(ctx context.Context) {
	if first := min(time.Duration(p.drain.Load()), p.resetStep); first > 0 {
		p.install(ctx, rules.ShutdownMark)
		time.Sleep(first)
	}
	klog.FromContext(ctx).Info("Resetting connections")
	p.install(ctx, rules.ShutdownReset)
	time.Sleep(p.resetStep)
}

// install puts rules in place once. Nobody is left to try again if that fails,
// and what is lost then is a courtesy.
func (p *Proxy) install(ctx context.Context, set func(config.Config, config.Family, []netip.Addr) rules.Ruleset) {
	addrs, err := p.kernel.Addresses()
	failures := []error{err}
	if err == nil {
		for family, t := range p.tables {
			failures = append(failures, t.install(ctx, set(p.config, family, addrs)))
		}
	}
	if err := errors.Join(failures...); err != nil {
		klog.FromContext(ctx).Error(err, "Connections may not be told that they have ended")
	}
}
