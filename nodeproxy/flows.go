package nodeproxy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

const (
	// countPeriod is the time between two counts of flows. A count of a full port takes the kernel and
	// the process about a tenth of a second.
	countPeriod = 10 * time.Second
	// crowdedPercent is how many percent of a port's source ports are in use when the log warns.
	crowdedPercent = 80
)

// countFlows counts, from time to time, the flows to each port of the Service. If it cannot, the
// metrics have no numbers until it can.
func (p *Proxy) countFlows(ctx context.Context, addrs []netip.Addr) {
	if time.Now().Before(p.countFlowsAfter) {
		return
	}
	p.countFlowsAfter = time.Now().Add(countPeriod)
	matcher := rules.NewMatcher(p.config, addrs)
	var crowded []string
	for _, family := range config.Families {
		if _, served := p.config.ClusterIP(family); !served {
			continue
		}
		counts := map[config.Port]uint64{}
		err := p.kernel.Flows(family, func(flow rules.Flow) {
			if port, ok := matcher.Port(flow); ok {
				counts[port]++
			}
		})
		if err != nil {
			klog.FromContext(ctx).Error(err, "Metrics lack the number of connections; will retry")
			p.forgetFlows()
			return
		}
		for _, port := range p.config.Ports {
			labels := portLabels(family, port)
			p.metrics.set(portTracked, counts[port], labels...)
			p.metrics.set(portLimit, config.MaxConnections, labels...)
			if counts[port]*100 >= config.MaxConnections*crowdedPercent {
				crowded = append(crowded, fmt.Sprintf("%s %s port %d", family, port.Protocol, port.Port))
			}
		}
	}
	if len(crowded) > 0 && !slices.Equal(crowded, p.crowded) {
		klog.FromContext(ctx).Info("Almost as many connections as there can be on this node; let more nodes serve the Service",
			"service", p.config.Service, "ports", crowded, "limit", config.MaxConnections)
	}
	p.crowded = crowded
}

// forgetFlows removes the numbers of the last count from the metrics.
func (p *Proxy) forgetFlows() {
	p.metrics.remove(portTracked)
	p.metrics.remove(portLimit)
}
