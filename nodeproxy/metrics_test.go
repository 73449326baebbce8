package nodeproxy_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hostport-ccm/hostport-ccm/internal/metricstest"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

func TestMetricsAreDocumented(t *testing.T) {
	limited := web
	limited.MaxConnectionsPerClient = 20
	p := newTestProxy(t, limited)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	p.Run(ctx) // Sets the timeouts of connection tracking.
	p.kernel.FlushErr = errors.New("busy")
	p.Sync(t.Context())
	p.kernel.FlushErr = nil
	p.kernel.Tracked = []rules.Flow{{Protocol: "UDP", OrigDst: pod4, OrigDstPort: 53, ReplySrc: netip.MustParseAddr("10.96.0.6")}}
	p.Sync(t.Context())
	if err := p.kernel.Tables[config.IPv4].Restore(t.Context(), "*nat\n-F HOSTPORT-PREROUTING\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	p.Sync(t.Context())
	_, body := p.get("/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Documented(t, slices.Collect(maps.Values(families)), "hostport_nodeproxy_")
}
