package nodeproxy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

const (
	// countPeriod is the least time between two counts of flows. A count of a full port takes the
	// kernel and the process about a tenth of a second.
	countPeriod = 10 * time.Second
	// crowdedPercent is how many percent of a port's source ports are in use when the log warns.
	crowdedPercent = 80
	// crowdedFlows is the same as a number of flows.
	crowdedFlows = config.MaxConnections * crowdedPercent / 100
)

// flowPort is a port in one IP family.
type flowPort struct {
	family config.Family
	port   config.Port
}

// countFlows counts the flows to each port of a config.
func countFlows(kernel Kernel, c config.Config, addrs []netip.Addr) (map[flowPort]uint64, error) {
	counts, matcher := map[flowPort]uint64{}, rules.NewMatcher(c, addrs)
	for _, family := range config.Families {
		if _, served := c.ClusterIP(family); !served {
			continue
		}
		for _, port := range c.Ports {
			counts[flowPort{family, port}] = 0
		}
		err := kernel.Flows(family, func(flow rules.Flow) {
			if port, ok := matcher.Port(flow); ok {
				counts[flowPort{family, port}]++
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// flowCounter sets the metrics of the number of flows when the metrics are asked for. It never makes
// a sync wait, and is safe for concurrent use.
type flowCounter struct {
	kernel  Kernel
	metrics *metrics
	// wanted is what to count, nil before the first sync.
	wanted atomic.Pointer[flowTarget]
	// mu protects what follows: what was counted last, and when to count again.
	mu      sync.Mutex
	counted *flowTarget
	after   time.Time
}

// flowTarget is which flows are counted: those to the ports of a config at the pod's addresses.
type flowTarget struct {
	config config.Config
	addrs  []netip.Addr
}

// update counts the flows unless that was done shortly before. If it cannot, the metrics have no
// numbers until it can.
func (f *flowCounter) update(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target := f.wanted.Load()
	if target == nil || target == f.counted && time.Now().Before(f.after) {
		return
	}
	f.counted, f.after = target, time.Now().Add(countPeriod)
	counts, err := countFlows(f.kernel, target.config, target.addrs)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Metrics lack the number of connections; will retry")
	}
	f.metrics.remove(portTracked)
	f.metrics.remove(portLimit)
	for p, n := range counts {
		labels := portLabels(p.family, p.port)
		f.metrics.set(portTracked, n, labels...)
		f.metrics.set(portLimit, config.MaxConnections, labels...)
	}
}

// warnOfCrowdedPorts logs, from time to time, which ports have almost no source port left. It reads
// the flows only if there are enough of them.
func (p *Proxy) warnOfCrowdedPorts(ctx context.Context) {
	if time.Now().Before(p.countFlowsAfter) {
		return
	}
	p.countFlowsAfter = time.Now().Add(countPeriod)
	var counts map[flowPort]uint64
	n, err := p.kernel.FlowCount()
	if err == nil && n >= crowdedFlows {
		counts, err = countFlows(p.kernel, p.config, p.addrs)
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot tell whether there are too many connections; will retry")
		return
	}
	var crowded []string
	for p, n := range counts {
		if n >= crowdedFlows {
			crowded = append(crowded, fmt.Sprintf("%s %s port %d", p.family, p.port.Protocol, p.port.Port))
		}
	}
	slices.Sort(crowded)
	if len(crowded) > 0 && !slices.Equal(crowded, p.crowded) {
		klog.FromContext(ctx).Info("Almost as many connections as there can be on this node; let more nodes serve the Service",
			"service", p.config.Service, "ports", crowded, "limit", config.MaxConnections)
	}
	p.crowded = crowded
}
