package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// cost is what a proxy costs without traffic.
type cost struct {
	proxy *runningProxy
	// cpu is the share of a core, and started whether it has started a process.
	cpu     float64
	started bool
	// anonymous is its own memory, resident all that is in memory with the program itself, in KiB.
	anonymous, resident int
}

// use is what a process has used since its start.
type use struct {
	cpu time.Duration
	// childFaults are the page faults of processes that it has started and that have ended.
	childFaults int
}

// processorTimeOf returns the processor time of a process's threads.
func processorTimeOf(pid int) (sum time.Duration, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	for _, file := range threads {
		data, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		var ns int64
		if _, err := fmt.Sscan(string(data), &ns); err != nil {
			return 0, fmt.Errorf("reading %s: %w", file, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// used returns what the process has used.
func (p *runningProxy) used() (u use, err error) {
	if u.cpu, err = processorTimeOf(p.cmd.Process.Pid); err != nil {
		return u, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat))
	_, err = fmt.Sscan(fields[10], &u.childFaults)
	return u, err
}

// measureIdle observes the proxies for a period without traffic.
func measureIdle(ctx context.Context, proxies []*runningProxy, period time.Duration) ([]cost, error) {
	before := map[*runningProxy]use{}
	for _, p := range proxies {
		u, err := p.used()
		if err != nil {
			return nil, err
		}
		before[p] = u
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(period):
	}
	var all []cost
	for _, p := range proxies {
		u, err := p.used()
		if err != nil {
			return nil, err
		}
		c := cost{proxy: p, cpu: float64(u.cpu-before[p].cpu) / float64(time.Since(began)), started: u.childFaults > before[p].childFaults}
		if c.anonymous, err = p.memory("RssAnon:"); err != nil {
			return nil, err
		}
		if c.resident, err = p.memory("VmRSS:"); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func printIdle(out io.Writer, costs []cost) {
	fmt.Fprintln(out, "\nWithout traffic:")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "proxy\tready after, s\tof a core, %\tstarted a process\tits own memory, KiB\twith the program, KiB\t")
	for _, c := range costs {
		fmt.Fprintf(table, "%s\t%.2f\t%.4f\t%t\t%d\t%d\t\n", c.proxy.name, c.proxy.readyAfter.Seconds(), 100*c.cpu, c.started, c.anonymous, c.resident)
	}
	table.Flush()
}
