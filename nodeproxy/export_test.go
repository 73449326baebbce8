package nodeproxy

import (
	"context"
	"time"
)

// The tests that need package nodeproxytest are outside of this package, which
// that one imports. This is what they use beyond the exported API.

// FlushSyncs is flushSyncs.
const FlushSyncs = flushSyncs

func (p *Proxy) Sync(ctx context.Context) time.Duration { return p.sync(ctx) }

func (p *Proxy) ResetConnections(ctx context.Context) { p.resetConnections(ctx) }

func (p *Proxy) SetResetTimes(step, timeout time.Duration) {
	p.resetStep, p.resetTimeout = step, timeout
}

func (p *Proxy) Drain() time.Duration { return time.Duration(p.drain.Load()) }

func (p *Proxy) SetDrain(drain time.Duration) { p.drain.Store(int64(drain)) }

func (p *Proxy) FlushTCPAfter() time.Time { return p.flushTCPAfter }

func (p *Proxy) SetFlushTCPAfter(at time.Time) { p.flushTCPAfter = at }

// CountFlowsNow makes the next sync count flows.
func (p *Proxy) CountFlowsNow() { p.countFlowsAfter = time.Time{} }

func (p *Proxy) Liveness() time.Duration { return p.liveness() }

func (p *Proxy) SetLastProgress(at time.Time) { p.health.progressed(at) }
