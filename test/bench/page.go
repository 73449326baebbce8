package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/test/hardware"
)

// page is what the page is written from.
type page struct {
	machine  hardware.Description
	options  options
	versions [2]string // of HAProxy and nginx
	comparison
	holdings []holding
}

const pageFormat = `<!-- Written by ` + "`make bench-peers`" + `. -->

# Datapaths and their peers

` + "`make bench-peers`" + ` (as root, on Debian with Go) compares ways to take TCP connections from a port of a node to a backend, in one run.

Measured on %s: %s, %d cores, %d GiB, Linux %s, load average %s before. HAProxy %s and nginx %s are Debian's.

## Paths

Each has its own client, node, pod and backend, in network namespaces: no packet passes another's rules. The node has kube-proxy's rules, as mode iptables writes them, for a Service, and for host ports those of the CNI plugin portmap. The client uses the last of the ports.

- **kube-proxy, NodePort**: the limit; all ratios are to it with one port. Policy Cluster: the backend sees the node's address.
- **direct**: kube-proxy with the node's address in the status: a rule for address and port replaces that of the node port, which comes later. With **policy Local**, nothing is masqueraded: the backend sees the client's address.
- **hostPort of the application**: portmap translates to the backend.
- **proxy**: a host port, and hostport-nodeproxy, with one source range, which translates to the cluster IP.
- **like klipper-lb**: the same with a rule for DNAT and one for masquerade per port, and none for source ranges.
- **HAProxy** (mode tcp), **nginx stream**: a host port, and a program that copies to a connection of its own to the cluster IP. Threads or workers are as many as cores.

## Figures

Medians of the rounds; in brackets, that of the ratios in each round, bold if beyond the noise.

%s
![Ratios to NodePort with one port](peers.svg)

## What they say

The lowest and the highest of the ratios above. Noise is that of NodePort with one port, which has two turns in each round, to itself: in single rounds, which scatter more than medians.

%s
## Connections at a time

With one port. Memory is per connection: the growth of the program's own, and of the kernel's slabs of the machine. HAProxy and nginx were not filled to a limit: theirs are open files, two per connection, and source ports to the cluster IP, 28,232 by default.

%s
## Method

Rounds: %d, %s per figure and path. In a round, all paths take turns at one figure, then at the next; every other round in the opposite order. Requests and answers are of one byte, over 8 open connections. New connections exchange one byte each, 8 at a time. Throughput is that of 2 connections. Latency is that of requests one after the other over one connection. CPU per request is the processor time of client, backend and copying program; the kernel forwards mostly in the time of a packet's sender. Client and backend are one Go program on the same machine, and part of every figure.
`

func (p page) markdown() string {
	m := p.machine
	return fmt.Sprintf(pageFormat, m.Date.Format("2 January 2006"), m.CPU, m.Cores, m.Memory, m.Kernel, m.Load, p.versions[0], p.versions[1],
		p.figuresTable(), p.summaryTable(), p.holdingsTable(), p.options.rounds, p.options.period)
}

// write writes peers.md and peers.svg.
func (p page) write(folder string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(folder, "peers.md"), []byte(p.markdown()), 0o644),
		os.WriteFile(filepath.Join(folder, "peers.svg"), []byte(plot(p.comparison)), 0o644),
	)
}

// figuresTable has a row for each result.
func (p page) figuresTable() string {
	header := []string{"path", "ports"}
	for _, t := range metricTexts {
		header = append(header, t.name+", "+t.unit)
	}
	rows := [][]string{header}
	for _, r := range p.results {
		row := []string{r.name, fmt.Sprint(r.ports)}
		for m := range metrics {
			ratio := p.ratio(r, m)
			text := fmt.Sprintf("%.2f", ratio)
			if !p.isNoise(ratio, m) {
				text = "**" + text + "**"
			}
			row = append(row, fmt.Sprintf("%s (%s)", number(r.median(m)), text))
		}
		rows = append(rows, row)
	}
	return table(rows)
}

func (p page) holdingsTable() string {
	rows := [][]string{{"path", "tried", "held", "program, KiB", "kernel, KiB"}}
	for _, h := range p.holdings {
		program := ""
		if h.program > 0 {
			program = fmt.Sprintf("%.1f", h.program)
		}
		// The slabs may also have shrunk, by other work of the machine.
		kernel := fmt.Sprintf("%.1f", max(h.kernel, 0))
		rows = append(rows, []string{h.name, number(float64(h.tried)), number(float64(h.connections)), program, kernel})
	}
	return table(rows)
}

// groups are the rows of the summary: routes in it by whether they have a pod that forwards, and how.
var groups = []struct {
	name       string
	forwarders []forwarder
}{
	{"direct, hostPort", []forwarder{noForwarder}},
	{"proxy", []forwarder{realProxy}},
	{"like klipper-lb", []forwarder{klipperRules}},
	{"HAProxy, nginx", []forwarder{haproxy, nginx}},
}

// summaryTable has a row for the noise, and one for each group of routes.
func (p page) summaryTable() string {
	header, noise := []string{"of NodePort with " + portsText(p.reference.ports)}, []string{"noise"}
	for m, t := range metricTexts {
		low, high := p.noise(metric(m))
		header, noise = append(header, t.name), append(noise, span(low, high))
	}
	rows := [][]string{header, noise}
	for _, g := range groups {
		row := []string{g.name}
		for m := range metrics {
			row = append(row, span(p.extremes(m, g.forwarders)))
		}
		rows = append(rows, row)
	}
	return table(rows)
}

func span(low, high float64) string { return fmt.Sprintf("%.2f–%.2f", low, high) }

// number formats a figure with three digits or more, and commas.
func number(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.3g", v)
	}
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// table returns a Markdown table, whose first row is the header.
func table(rows [][]string) string {
	var b strings.Builder
	for i, row := range rows {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|" + strings.Repeat(" --- |", len(row)) + "\n")
		}
	}
	return b.String()
}
