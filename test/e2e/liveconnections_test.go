//go:build e2e

package e2e

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// One after the other, as what happens to one Service would disturb the other.
func TestDatapathLiveConnections(t *testing.T) {
	for _, d := range datapaths {
		t.Run(d.name, func(t *testing.T) {
			ns, port := newNamespace(t), freePort()
			newBackend(t, ns, "web")
			svc := d.newService(t, ns, withAnnotation(drainSeconds, strconv.Itoa(int(drain.Seconds()))), servicePort(v1.ProtocolTCP, int32(port)))
			wantAddresses(t, svc, time.Minute, externalIPs()...)
			wantOpen(t, getTCP, "web", port, externalIPs()...)
			// 1,000, spread over the addresses.
			live := map[string]held{}
			for i, address := range externalIPs() {
				live[address] = hold(t, (1000+i)/len(externalIPs()), net.JoinHostPort(address, strconv.Itoa(port)))
			}
			replaceProxies(t, svc, port, live)
			for _, held := range live {
				held.wantAlive(t)
			}
		})
	}
}

// drain is how long a proxy of these tests serves after it was told to stop.
const drain = 3 * time.Second

// stop is when a proxy was told to stop, and what ran through it.
type stop struct {
	through         held
	asked, replaced time.Time
}

// replaceProxies replaces ten proxies. The connections through each, which must
// last for the drain time, are replaced by new ones.
func replaceProxies(t *testing.T, svc *v1.Service, port int, live map[string]held) {
	t.Helper()
	var stops []stop
	for i := range 10 {
		node := cluster.Nodes(cluster.GCE)[i%len(live)]
		s := stop{through: live[node.ExternalIP], asked: time.Now()}
		deletePod(t, proxyOn(t, svc, node.Name))
		wantAddresses(t, svc, time.Minute, externalIPs(node.Name)...)
		left := time.Since(s.asked)
		closed := isClosed(t.Context(), getTCP, node.ExternalIP, port) == nil
		if closed && time.Since(s.asked) < drain {
			t.Errorf("%s did not serve any more when its address had left, after %.2fs", node.Name, left.Seconds())
		}
		wantAddresses(t, svc, time.Minute, externalIPs()...)
		s.replaced = time.Now()
		t.Logf("replacement %d: the address was away from %.2fs to %.2fs after the proxy was told to stop", i+1, left.Seconds(), s.replaced.Sub(s.asked).Seconds())
		live[node.ExternalIP] = hold(t, len(s.through), net.JoinHostPort(node.ExternalIP, strconv.Itoa(port)))
		stops = append(stops, s)
	}
	var ended []ending
	first := time.Hour
	for i, s := range stops {
		ends := s.through.endings(t, s.replaced)
		for _, e := range ends {
			lasted := e.asked.Sub(s.asked)
			first = min(first, lasted)
			if lasted < drain {
				t.Errorf("replacement %d: a connection ended %.2fs after its proxy was told to stop, want %s or more: %v", i+1, lasted.Seconds(), drain, e.err)
			}
		}
		ended = append(ended, ends...)
	}
	t.Logf("%d connections ended, none earlier than %.2fs after its proxy was told to stop: %s", len(ended), first.Seconds(), strings.Join(causes(ended), "; "))
}
