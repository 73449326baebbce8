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

// CountFlowsNow makes the next sync, and the next request for metrics, count flows.
func (p *Proxy) CountFlowsNow() { p.countFlowsAfter, p.flows.after = time.Time{}, time.Time{} }

// CountAlways makes each request for metrics read the kernel's counters.
func (p *Proxy) CountAlways() { p.counters.maxAge = 0 }

func (p *Proxy) Liveness() time.Duration { return p.liveness() }

func (p *Proxy) SetLastProgress(at time.Time) { p.health.progressed(at) }

// PassTime makes the rules' last verification d earlier.
func (p *Proxy) PassTime(d time.Duration) {
	for _, t := range p.tables {
		t.verified.at = t.verified.at.Add(-d)
	}
}
