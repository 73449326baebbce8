package nodeproxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

func TestFlowsAreCountedPerPortOfTheConfig(t *testing.T) {
	dual := web
	dual.ClusterIPs = []string{"10.96.0.7", "fd00:96::7"}
	p := newTestProxy(t, dual)
	track := func(n int, protocol string, to netip.Addr, port uint16) {
		for range n {
			p.kernel.Tracked = append(p.kernel.Tracked, rules.Flow{Protocol: protocol, OrigDst: to, OrigDstPort: port, ReplySrc: netip.MustParseAddr("10.96.0.7"), Established: true})
		}
	}
	track(3, "TCP", pod4, 80)
	track(2, "TCP", pod6, 80)
	track(4, "TCP", pod4, 81)
	track(5, "UDP", pod4, 80)
	track(6, "TCP", netip.MustParseAddr("10.1.0.6"), 80)
	p.Sync(t.Context())
	for labels, want := range map[string]int{
		`{family="IPv4",protocol="TCP",port="80"}`: 3,
		`{family="IPv6",protocol="TCP",port="80"}`: 2,
		`{family="IPv4",protocol="UDP",port="53"}`: 0,
	} {
		p.wantMetric(t, fmt.Sprintf("hostport_nodeproxy_port_tracked_connections%s %d", labels, want))
		p.wantMetric(t, "hostport_nodeproxy_port_tracked_connections_limit"+labels+" 64512")
	}

	next := web
	next.Ports = []config.Port{{Protocol: "TCP", Port: 81}}
	p.write(t, next)
	p.Sync(t.Context())
	p.wantMetric(t, `hostport_nodeproxy_port_tracked_connections{family="IPv4",protocol="TCP",port="81"} 4`)
	p.wantNoMetric(t, `hostport_nodeproxy_port_tracked_connections{family="IPv4",protocol="TCP",port="80"}`)

	p.kernel.FlowsErr = errors.New("busy")
	p.CountFlowsNow()
	p.Sync(t.Context())
	p.wantNoMetric(t, "hostport_nodeproxy_port_tracked_connections{")
	p.wantReady(t)
}

func (p *testProxy) wantNoMetric(t *testing.T, part string) {
	t.Helper()
	if _, body := p.get("/metrics"); strings.Contains(body, part) {
		t.Errorf("/metrics has %q:\n%s", part, body)
	}
}

func TestTheLogWarnsOfEachPortWithFewSourcePortsLeftOnce(t *testing.T) {
	var log bytes.Buffer
	ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log))))
	p := newTestProxy(t, web)
	flow := rules.Flow{Protocol: "TCP", OrigDst: pod4, OrigDstPort: 80, ReplySrc: netip.MustParseAddr("10.96.0.7"), Established: true}
	for _, step := range []struct{ flows, warnings int }{
		{config.MaxConnections*8/10 - 1, 0}, {config.MaxConnections*8/10 + 1, 1}, {config.MaxConnections, 1}, {0, 1}, {config.MaxConnections, 2},
	} {
		p.kernel.Tracked = make([]rules.Flow, step.flows)
		for i := range p.kernel.Tracked {
			p.kernel.Tracked[i] = flow
		}
		p.CountFlowsNow()
		p.Sync(ctx)
		if got := strings.Count(log.String(), "Almost as many connections as there can be"); got != step.warnings {
			t.Errorf("with %d flows, the log has %d warnings, want %d", step.flows, got, step.warnings)
		}
	}
}

func TestANodeThatCannotLimitConnectionsIsNotReadyAndSaysWhy(t *testing.T) {
	limited := web
	limited.MaxConnectionsPerClient = 20
	p := newTestProxy(t, limited)
	p.kernel.FailRestore(errors.New("extension not supported"))
	p.Sync(t.Context())
	p.wantNotReady(t, "xt_connlimit")
	p.kernel.FailRestore(nil)
	p.Sync(t.Context())
	p.wantReady(t)
	p.wantRules(t, limited)
	p.kernel.Tables[config.IPv4].Count("filter", "HOSTPORT-CLIENTS", "connlimit", rules.Count{Packets: 7, Bytes: 420})
	p.Sync(t.Context())
	p.wantMetric(t, `hostport_nodeproxy_client_limit_dropped_packets_total{family="IPv4"} 7`)
}
