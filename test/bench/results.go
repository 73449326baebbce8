package main

import "slices"

// metric is what is measured of each route.
type metric int

const (
	requestRate metric = iota
	connectionRate
	bytesRate
	latency50
	latency99
	requestCost
	metrics
)

// metricTexts are the metrics' names and units.
var metricTexts = [metrics]struct {
	name, unit string
	// lessIsBetter is true for times and costs.
	lessIsBetter bool
}{
	requestRate:    {"requests", "1/s", false},
	connectionRate: {"new connections", "1/s", false},
	bytesRate:      {"throughput", "Gbit/s", false},
	latency50:      {"latency p50", "µs", true},
	latency99:      {"latency p99", "µs", true},
	requestCost:    {"CPU per request", "µs", true},
}

// sample is what one round measured of one route.
type sample [metrics]float64

// result is what all rounds measured of one route with a number of ports.
type result struct {
	route
	ports   int
	samples []sample
}

// median returns the median of a metric.
func (r result) median(m metric) float64 {
	var values []float64
	for _, s := range r.samples {
		values = append(values, s[m])
	}
	return median(values)
}

// ratios returns the ratio to another result in each round, sorted.
func (r result) ratios(m metric, to result) []float64 {
	var all []float64
	for i, s := range r.samples {
		all = append(all, s[m]/to.samples[i][m])
	}
	slices.Sort(all)
	return all
}

// comparison is all results of one run.
type comparison struct {
	// reference is what the others are compared with, and again the same route, measured once
	// more in each round.
	reference, again result
	// results begin with the reference.
	results []result
}

func (c comparison) ratio(r result, m metric) float64 { return median(r.ratios(m, c.reference)) }

// noise returns the lowest and the highest ratio of the reference to itself in single rounds, and 1.
func (c comparison) noise(m metric) (low, high float64) {
	all := c.again.ratios(m, c.reference)
	return min(all[0], 1), max(all[len(all)-1], 1)
}

// isNoise reports whether a ratio is within the noise.
func (c comparison) isNoise(ratio float64, m metric) bool {
	low, high := c.noise(m)
	return ratio >= low && ratio <= high
}

// names returns the paths' names, each once.
func (c comparison) names() []string {
	var names []string
	for _, r := range c.results {
		if r.ports == c.reference.ports {
			names = append(names, r.name)
		}
	}
	return names
}

// portCounts returns the numbers of ports in the order of the results, each once.
func (c comparison) portCounts() []int {
	var counts []int
	for _, r := range c.results {
		if r.name == c.reference.name {
			counts = append(counts, r.ports)
		}
	}
	return counts
}

// extremes returns the lowest and the highest ratio of the results with these forwarders, other than
// the reference.
func (c comparison) extremes(m metric, forwarders []forwarder) (low, high float64) {
	var all []float64
	for _, r := range c.results {
		if slices.Contains(forwarders, r.forwarder) && r.route != c.reference.route {
			all = append(all, c.ratio(r, m))
		}
	}
	return slices.Min(all), slices.Max(all)
}

// holding is how many connections at a time a route held, and what one took.
type holding struct {
	name        string
	tried       int
	connections int64
	// program is the memory of the program in the pod, and kernel the kernel's, in KiB per
	// connection.
	program, kernel float64
}
