package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/test/hardware"
)

// comparePeers measures all routes and prints the results, or writes them as a page into a folder
// unless that is empty.
func comparePeers(ctx context.Context, o options, out io.Writer, folder string) error {
	dir, err := os.MkdirTemp("", "hostport-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	packages, err := debs.Unpack(ctx, filepath.Join(dir, "root"), copyingFiles)
	if err != nil {
		return err
	}
	p, err := measurePeers(ctx, o, dir, packages)
	if err != nil {
		return err
	}
	if folder != "" {
		return p.write(folder)
	}
	_, err = io.WriteString(out, p.markdown())
	return err
}

func measurePeers(ctx context.Context, o options, dir string, packages debs.Root) (p page, err error) {
	p.options = o
	if p.machine, err = hardware.Describe(); err != nil {
		return p, err
	}
	if p.versions, err = copyingVersions(packages); err != nil {
		return p, err
	}
	c, err := newRouteLabs(ctx, dir, packages, o.ports)
	defer c.close()
	if err != nil {
		return p, err
	}
	if p.comparison, err = c.compare(ctx, o); err != nil {
		return p, err
	}
	p.holdings, err = c.holdings(ctx, o.connections)
	return p, err
}

// compare measures all labs in turns, every other round in the opposite order, so that other
// load of the machine affects all of them. The reference has two turns in each round, at its beginning
// and in its middle.
func (c *routeLabs) compare(ctx context.Context, o options) (comparison, error) {
	again := len(c.labs) / 2
	turns := slices.Insert(slices.Clone(c.labs), again, c.labs[0])
	results := make([]result, len(turns))
	order := make([]int, len(turns))
	for i, one := range turns {
		results[i] = result{route: one.route, ports: one.ports}
		order[i] = i
	}
	for range o.rounds {
		samples, err := measureRound(ctx, turns, order, o.period)
		if err != nil {
			return comparison{}, err
		}
		for i, s := range samples {
			results[i].samples = append(results[i].samples, s)
		}
		slices.Reverse(order)
	}
	done := comparison{reference: results[0], again: results[again]}
	done.results = slices.Delete(results, again, again+1)
	return done, nil
}

// measureRound measures one metric of all labs after the other.
func measureRound(ctx context.Context, turns []*routeLab, order []int, period time.Duration) ([]sample, error) {
	samples := make([]sample, len(turns))
	for _, measure := range []func(*routeLab, time.Duration, *sample) error{
		(*routeLab).measureRequests, (*routeLab).measureConnections, (*routeLab).measureThroughput, (*routeLab).measureLatency,
	} {
		for _, i := range order {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := measure(turns[i], period, &samples[i]); err != nil {
				return nil, fmt.Errorf("measuring %s: %w", turns[i], err)
			}
		}
	}
	return samples, nil
}

func (c *routeLab) measureConnections(period time.Duration, s *sample) error {
	r, err := c.lab.measure(connecting, c.path(c.ports), period)
	s[connectionRate] = r.perSecond
	return err
}

func (c *routeLab) measureRequests(period time.Duration, s *sample) error {
	r, err := c.lab.measure(requesting, c.path(c.ports), period)
	s[requestRate], s[requestCost] = r.perSecond, 1e6/r.perCPUSecond
	return err
}

func (c *routeLab) measureThroughput(period time.Duration, s *sample) error {
	r, err := c.lab.measure(pushing, c.path(c.ports), period)
	s[bytesRate] = r.perSecond
	return err
}

func (c *routeLab) measureLatency(period time.Duration, s *sample) error {
	sorted, err := c.lab.latency(c.path(c.ports), period)
	if err != nil {
		return err
	}
	s[latency50] = float64(percentile(sorted, 0.50)) / 1e3
	s[latency99] = float64(percentile(sorted, 0.99)) / 1e3
	return nil
}

// holdings fills each route with the least ports with connections.
func (c *routeLabs) holdings(ctx context.Context, limit int) (all []holding, err error) {
	for _, one := range c.labs[:len(routes)] {
		h, err := one.holding(ctx, limit)
		if err != nil {
			return all, fmt.Errorf("filling %s: %w", one, err)
		}
		all = append(all, h)
	}
	return all, nil
}

func (c *routeLab) holding(ctx context.Context, limit int) (holding, error) {
	if len(c.lab.forwarders) > 0 {
		limit = min(limit, maxCopied)
	}
	h := holding{name: c.name, tried: limit}
	programBefore, kernelBefore, err := c.memory()
	if err != nil {
		return h, err
	}
	if h.connections, err = c.lab.hold(ctx, c.path(c.ports), limit); err != nil {
		return h, err
	}
	program, kernel, err := c.memory()
	n := float64(max(h.connections, 1))
	h.program, h.kernel = float64(program-programBefore)/n, float64(kernel-kernelBefore)/n
	return h, err
}

// memory returns the memory of the programs in the pod that copy, and of the kernel's objects, in KiB.
func (c *routeLab) memory() (program, kernel int, err error) {
	for _, pid := range c.lab.forwarders {
		kib, err := memoryOf(pid, "RssAnon:")
		if err != nil {
			return 0, 0, err
		}
		program += kib
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscanf(hardware.Field(string(info), "Slab"), "%d", &kernel)
	return program, kernel, err
}
