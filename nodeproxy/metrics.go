package nodeproxy

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// metric is a family of time series. The Prometheus client library would double
// the program's size and memory.
type metric struct{ name, kind, help string }

var (
	portPackets     = metric{"hostport_nodeproxy_port_packets_total", "counter", "Packets from clients (in) and to clients (out); in includes packets from sources that are not allowed."}
	portBytes       = metric{"hostport_nodeproxy_port_bytes_total", "counter", "Bytes of these packets, including IP headers."}
	portConnections = metric{"hostport_nodeproxy_port_connections_total", "counter", "Connections, UDP flows and SCTP associations to the cluster IP, including those from sources that are not allowed."}
	portTracked     = metric{"hostport_nodeproxy_port_tracked_connections", "gauge", "Connections, UDP flows and SCTP associations in connection tracking, each of which has a source port."}
	portLimit       = metric{"hostport_nodeproxy_port_tracked_connections_limit", "gauge", "How many there can be, as there are no more source ports."}
	clientLimited   = metric{"hostport_nodeproxy_client_limit_dropped_packets_total", "counter", "First packets of connections that were dropped because their client had as many as it may have."}
	ruleRepairs     = metric{"hostport_nodeproxy_rule_repairs_total", "counter", "Number of times that rules had changed or were missing and were repaired."}
	syncs           = metric{"hostport_nodeproxy_syncs_total", "counter", "Syncs, by result."}
	flushedFlows    = metric{"hostport_nodeproxy_conntrack_flushed_flows_total", "counter", "UDP flows and unanswered TCP connections to an earlier target or none that were deleted."}
	flushFailures   = metric{"hostport_nodeproxy_conntrack_flush_failures_total", "counter", "Failed attempts to delete such flows."}
	timeoutsSet     = metric{"hostport_nodeproxy_conntrack_timeouts_set", "gauge", "1 if connection tracking has the proxy's timeouts, 0 if the kernel's defaults apply because it cannot change them."}
	configGen       = metric{"hostport_nodeproxy_config_generation", "gauge", "Number of valid configs put in force since the start."}
	configValid     = metric{"hostport_nodeproxy_config_valid", "gauge", "1 if the config file is valid, 0 if an earlier config is in force because it is not."}
	readyGauge      = metric{"hostport_nodeproxy_ready", "gauge", "1 if the proxy is ready, else 0."}
	flavourInfo     = metric{"hostport_nodeproxy_iptables_info", "gauge", "The iptables flavour in use."}
)

// series is one time series. Its labels are written as in Prometheus' text format.
type series struct {
	metric
	labels string
}

// metrics are the proxy's metrics. It is safe for concurrent use.
type metrics struct {
	mu     sync.Mutex
	values map[series]uint64
	// lastCounts are the kernel's counters as read last. Installing rules sets the kernel's
	// counters to zero, but not the values here.
	lastCounts map[config.Family]map[rules.Meter]rules.Count
}

// newMetrics returns metrics whose counters exist from the start, as Prometheus sees no increase of one that
// begins at 1.
func newMetrics() *metrics {
	m := &metrics{values: map[series]uint64{}, lastCounts: map[config.Family]map[rules.Meter]rules.Count{}}
	for _, result := range []string{"unchanged", "changed", "repaired", "failed"} {
		m.set(syncs, 0, "result", result)
	}
	for _, family := range []config.Family{config.IPv4, config.IPv6} {
		m.set(ruleRepairs, 0, "family", string(family))
	}
	m.set(flushedFlows, 0)
	m.set(flushFailures, 0)
	return m
}

// add adds n to a series. The labels are pairs of name and value.
func (m *metrics) add(which metric, n uint64, labels ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[seriesOf(which, labels)] += n
}

// set sets a series to n. The labels are pairs of name and value.
func (m *metrics) set(which metric, n uint64, labels ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[seriesOf(which, labels)] = n
}

// remove removes all series of a metric.
func (m *metrics) remove(which metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.values, func(s series, _ uint64) bool { return s.metric == which })
}

func seriesOf(which metric, labels []string) series {
	var pairs []string
	for pair := range slices.Chunk(labels, 2) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", pair[0], pair[1]))
	}
	if len(pairs) == 0 {
		return series{metric: which}
	}
	return series{which, "{" + strings.Join(pairs, ",") + "}"}
}

// countersReset records that the kernel's counters of the family are zero.
func (m *metrics) countersReset(family config.Family) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.lastCounts, family)
}

// count adds what the kernel has counted since the last call. A meter that is not
// in counts keeps its value.
func (m *metrics) count(family config.Family, counts map[rules.Meter]rules.Count) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.lastCounts[family]
	if last == nil {
		last = map[rules.Meter]rules.Count{}
		m.lastCounts[family] = last
	}
	for meter, count := range counts {
		packets, bytes := increase(last[meter].Packets, count.Packets), increase(last[meter].Bytes, count.Bytes)
		last[meter] = count
		if meter.Kind == rules.Limited {
			m.values[seriesOf(clientLimited, []string{"family", string(family)})] += packets
			continue
		}
		labels := portLabels(family, meter.Port)
		if meter.Kind == rules.Connections {
			m.values[seriesOf(portConnections, labels)] += packets
			continue
		}
		labels = append(labels, "direction", string(meter.Kind))
		m.values[seriesOf(portPackets, labels)] += packets
		m.values[seriesOf(portBytes, labels)] += bytes
	}
}

// portLabels returns the labels of a port's series.
func portLabels(family config.Family, port config.Port) []string {
	return []string{"family", string(family), "protocol", port.Protocol, "port", fmt.Sprint(port.Port)}
}

// increase returns by how much a counter has increased. A counter that is lower
// than before has started again from zero.
func increase(before, after uint64) uint64 {
	if after < before {
		return after
	}
	return after - before
}

// kernelCounters are the metrics that the kernel counts.
var kernelCounters = []metric{portPackets, portBytes, portConnections, clientLimited}

// write writes all metrics but the excepted ones in Prometheus' text format, in a stable order.
func (m *metrics) write(w io.Writer, except []metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ordered := slices.SortedFunc(maps.Keys(m.values), func(a, b series) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.labels, b.labels))
	})
	ordered = slices.DeleteFunc(ordered, func(s series) bool { return slices.Contains(except, s.metric) })
	for i, s := range ordered {
		if i == 0 || s.metric != ordered[i-1].metric {
			fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", s.name, s.help, s.name, s.kind)
		}
		fmt.Fprintf(w, "%s%s %d\n", s.name, s.labels, m.values[s])
	}
}
