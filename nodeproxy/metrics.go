package nodeproxy

import (
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
// the program's size and memory for what is a page of text.
type metric struct{ name, kind, help string }

var (
	portPackets     = metric{"hostport_nodeproxy_port_packets_total", "counter", "Packets from clients (in), including those then refused for their source, and to them (out)."}
	portBytes       = metric{"hostport_nodeproxy_port_bytes_total", "counter", "Bytes of these packets, IP headers included."}
	portConnections = metric{"hostport_nodeproxy_port_connections_total", "counter", "Connections, UDP flows and SCTP associations sent to the cluster IP, including those then refused for their source."}
	ruleRepairs     = metric{"hostport_nodeproxy_rule_repairs_total", "counter", "Times that rules were found changed or gone and were put back."}
	syncs           = metric{"hostport_nodeproxy_syncs_total", "counter", "Passes of the sync loop, by result."}
	flushedFlows    = metric{"hostport_nodeproxy_conntrack_flushed_flows_total", "counter", "UDP flows and unanswered TCP connections toward an old or no target that were deleted."}
	flushFailures   = metric{"hostport_nodeproxy_conntrack_flush_failures_total", "counter", "Attempts to delete such flows that failed."}
	configGen       = metric{"hostport_nodeproxy_config_generation", "gauge", "Number of different valid configs read since the start."}
	configValid     = metric{"hostport_nodeproxy_config_valid", "gauge", "1 if the config file is valid now, 0 if the last valid one is in force instead."}
	readyGauge      = metric{"hostport_nodeproxy_ready", "gauge", "1 if ready."}
	flavourInfo     = metric{"hostport_nodeproxy_iptables_info", "gauge", "The iptables flavour in use."}
)

// metrics are the proxy's figures. It is safe for concurrent use.
type metrics struct {
	mu     sync.Mutex
	values map[metric]map[string]uint64
	// read are the kernel's counters as last read. They begin again at zero
	// whenever rules are programmed; the values here do not.
	read map[config.Family]map[rules.Meter]rules.Count
}

func newMetrics() *metrics {
	return &metrics{
		values: map[metric]map[string]uint64{},
		read:   map[config.Family]map[rules.Meter]rules.Count{},
	}
}

// labels writes pairs of name and value as Prometheus does.
func labels(pairs ...string) string {
	var out []string
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, fmt.Sprintf("%s=%q", pairs[i], pairs[i+1]))
	}
	if len(out) == 0 {
		return ""
	}
	return "{" + strings.Join(out, ",") + "}"
}

func (m *metrics) add(which metric, n uint64, pairs ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.series(which)[labels(pairs...)] += n
}

func (m *metrics) set(which metric, n uint64, pairs ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.series(which)[labels(pairs...)] = n
}

func (m *metrics) series(which metric) map[string]uint64 {
	if m.values[which] == nil {
		m.values[which] = map[string]uint64{}
	}
	return m.values[which]
}

// programmed notes that the kernel's counters of the family were set to zero.
func (m *metrics) programmed(family config.Family) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.read, family)
}

// count adds what the kernel has counted since the last reading.
func (m *metrics) count(family config.Family, counts map[rules.Meter]rules.Count) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.read[family]
	for meter, count := range counts {
		packets, bytes := since(count.Packets, last[meter].Packets), since(count.Bytes, last[meter].Bytes)
		pairs := []string{"family", string(family), "protocol", meter.Port.Protocol, "port", fmt.Sprint(meter.Port.Port)}
		if meter.Kind == rules.Connections {
			m.series(portConnections)[labels(pairs...)] += packets
			continue
		}
		pairs = append(pairs, "direction", string(meter.Kind))
		m.series(portPackets)[labels(pairs...)] += packets
		m.series(portBytes)[labels(pairs...)] += bytes
	}
	m.read[family] = counts
}

// since returns how far a counter went; one that went back began again at zero.
func since(now, last uint64) uint64 {
	if now < last {
		return now
	}
	return now - last
}

// write prints everything in Prometheus' text format, in a stable order.
func (m *metrics) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	byName := func(a, b metric) int { return strings.Compare(a.name, b.name) }
	for _, which := range slices.SortedFunc(maps.Keys(m.values), byName) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", which.name, which.help, which.name, which.kind)
		for _, series := range slices.Sorted(maps.Keys(m.values[which])) {
			fmt.Fprintf(w, "%s%s %d\n", which.name, series, m.values[which][series])
		}
	}
}
