package nodeproxy

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

const (
	// countersAge is how old the kernel's counters in an answer may be. Reading them takes a process
	// per IP family, so whoever asks more often gets the same ones again.
	countersAge = time.Second
	// countersTimeout is how long reading them may take; the answer has to be sent after that.
	countersTimeout = 3 * time.Second
)

// counters reads the kernel's counters of ports into the metrics, when the metrics are asked for. It
// never makes a sync wait for a process, and is safe for concurrent use.
type counters struct {
	metrics *metrics
	maxAge  time.Duration
	// reading is held while the counters are read. began is when they were last, and err the result.
	reading sync.Mutex
	began   time.Time
	err     error
	// mu is held while counters are added to the metrics, and never while a process runs.
	mu sync.Mutex
	// sources are what counts at present. A source is removed before its counters begin anew.
	sources map[config.Family]*source
}

// source is a ruleset whose rules are installed.
type source struct {
	iptables Iptables
	ruleset  *rules.Ruleset
}

func newCounters(m *metrics) *counters {
	return &counters{metrics: m, maxAge: countersAge, sources: map[config.Family]*source{}}
}

// installing takes the counters as they are just before rules are installed, which sets them to zero.
func (c *counters) installing(family config.Family, before rules.InstalledRules) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sources[family]; s != nil {
		c.metrics.count(family, s.ruleset.Counts(before))
	}
	delete(c.sources, family)
	c.metrics.countersReset(family)
}

// installed says that the rules are installed, and count from now on.
func (c *counters) installed(iptables Iptables, ruleset *rules.Ruleset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources[ruleset.Family] = &source{iptables, ruleset}
}

// update adds to the metrics what the kernel has counted, unless that was done just before.
func (c *counters) update(ctx context.Context) error {
	c.reading.Lock()
	defer c.reading.Unlock()
	if time.Since(c.began) < c.maxAge {
		return c.err
	}
	c.began = time.Now()
	ctx, cancel := context.WithTimeout(ctx, countersTimeout)
	defer cancel()
	c.mu.Lock()
	sources := maps.Clone(c.sources)
	c.mu.Unlock()
	var failures []error
	for family, s := range sources {
		failures = append(failures, c.updateFamily(ctx, family, s))
	}
	c.err = errors.Join(failures...)
	return c.err
}

func (c *counters) updateFamily(ctx context.Context, family config.Family, s *source) error {
	text, err := s.iptables.Save(ctx)
	if err != nil {
		return err
	}
	installed, err := rules.ParseSave(text)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sources[family] == s { // else the rules have been installed anew meanwhile
		c.metrics.count(family, s.ruleset.Counts(installed))
	}
	return nil
}
