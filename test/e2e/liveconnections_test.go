//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// One after the other, as what happens to one Service would disturb the other.
func TestDatapathLiveConnections(t *testing.T) {
	for _, d := range datapathsOf(v1.IPv4Protocol) {
		t.Run(d.name, func(t *testing.T) {
			ns, port := newNamespace(t), freePort()
			newBackend(t, ns, "web")
			svc := d.newService(t, ns, func(s *v1.Service) {
				withAnnotation(drainSeconds, strconv.Itoa(int(drain.Seconds())))(s)
				inAllFamilies(s)
			}, servicePort(v1.ProtocolTCP, int32(port)))
			all := addressesOf(cluster.Nodes(cluster.GCE), externalIP)
			wantAddresses(t, svc, time.Minute, all...)
			wantOpen(t, getTCP, "web", port, all...)
			// 1,000, spread over the addresses of all families.
			live := map[string]held{}
			for i, address := range all {
				live[address] = hold(t, (1000+i)/len(all), address, port)
			}
			if d.direct {
				shakeDirect(t, svc, port, live)
			} else {
				replaceProxies(t, svc, port, live)
			}
			wantAllAlive(t, live)
		})
	}
}

func wantAllAlive(t *testing.T, live map[string]held) {
	t.Helper()
	slices.Concat(slices.Collect(maps.Values(live))...).wantAlive(t)
}

const (
	// drain is how long a proxy of these tests serves after it was told to stop.
	drain = 3 * time.Second
	// farewell is how long it answers, by resets at the end: the signal is a second
	// late, and connections in use get a second to meet with a reset.
	farewell = time.Second + drain + time.Second
)

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
	nodes := cluster.Nodes(cluster.GCE)
	for i := range 10 {
		node := nodes[i%len(nodes)]
		own := addressesOf([]cluster.Node{node}, externalIP)
		others := slices.DeleteFunc(cluster.Nodes(cluster.GCE), func(n cluster.Node) bool { return n.Name == node.Name })
		s := stop{asked: time.Now()}
		deletePod(t, proxyOn(t, svc, node.Name))
		wantAddresses(t, svc, time.Minute, addressesOf(others, externalIP)...)
		left := time.Since(s.asked)
		for _, address := range own {
			if err := isServedUntil(t.Context(), s.asked.Add(drain), address, inSameFamily(address, others), port); err != nil {
				t.Errorf("%s did not serve any more by %s when its address had left, after %.2fs: %v", node.Name, address, left.Seconds(), err)
			}
		}
		wantAddresses(t, svc, time.Minute, addressesOf(nodes, externalIP)...)
		s.replaced = time.Now()
		t.Logf("replacement %d: the address was away from %.2fs to %.2fs after the proxy was told to stop", i+1, left.Seconds(), s.replaced.Sub(s.asked).Seconds())
		for _, address := range own {
			s.through = append(s.through, live[address]...)
			live[address] = hold(t, len(live[address]), address, port)
		}
		stops = append(stops, s)
	}
	var ended []ending
	first, last := time.Hour, time.Duration(0)
	for i, s := range stops {
		ends := s.through.endings(t, s.replaced)
		for _, e := range ends {
			lasted := e.lived().Sub(s.asked)
			first, last = min(first, lasted), max(last, e.told.Sub(s.asked))
			if lasted < drain {
				t.Errorf("replacement %d: a connection ended %.2fs after its proxy was told to stop, want %s or more: %v", i+1, lasted.Seconds(), drain, e.err)
			}
			if lasted < farewell && !errors.Is(e.err, syscall.ECONNRESET) {
				t.Errorf("replacement %d: a connection ended %.2fs after its proxy was told to stop, want a reset: %v", i+1, lasted.Seconds(), e.err)
			}
		}
		ended = append(ended, ends...)
	}
	t.Logf("%d connections ended, none earlier than %.2fs after its proxy was told to stop, and all knew after %.2fs: %s", len(ended), first.Seconds(), last.Seconds(), strings.Join(causes(ended), "; "))
}

// isServedUntil says what is wrong with a new connection before the end of a
// drain time. Silence until then is excused where another address, of a node on
// which nothing happens, is as silent: the machine is slow.
func isServedUntil(ctx context.Context, end time.Time, address, another string, port int) error {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	control := make(chan error, 1)
	go func() { control <- connectOnce(ctx, another, port) }()
	err := connectOnce(ctx, address, port)
	if isLate(err) {
		if slow := <-control; slow != nil {
			return nil
		}
		return err
	}
	if time.Now().Before(end) {
		return err
	}
	return nil
}

// inSameFamily returns an external address of one of some nodes.
func inSameFamily(address string, nodes []cluster.Node) string {
	for _, other := range addressesOf(nodes, externalIP) {
		if internetIP(other) == internetIP(address) {
			return other
		}
	}
	return ""
}

// shakeDirect does ten things to a Service without proxies that are to it what
// its proxies' replacement is to one that has them. They end no connection.
func shakeDirect(t *testing.T, svc *v1.Service, port int, live map[string]held) {
	t.Helper()
	nodes := cluster.Nodes(cluster.GCE)
	restored := func() *v1.Service { return wantMirror(t, svc, int32(port), addressesOf(nodes, internalIP)...) }
	mirror, another := restored(), freePort()
	type event struct {
		what string
		do   func()
	}
	var events []event
	for _, node := range nodes {
		events = append(events, event{"kube-proxy was killed on " + node.Name, func() { restartKubeProxy(t, node) }})
	}
	events = append(events,
		event{"its mirror lost its status", func() { emptyStatus(t, mirror) }},
		event{"its mirror was deleted", func() { deleteService(t, mirror) }},
		event{"it got another port", func() {
			editService(t, svc, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, int32(another))) })
		}},
		event{"it got source ranges", func() { editService(t, svc, onlyFrom(internetIPs()...)) }},
		event{"it lost its source ranges", func() {
			editService(t, svc, func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = nil })
		}},
		event{"the controller managers were killed", func() { killController(t) }},
		event{"its mirror was missing for a while", func() {
			scaleController(t, 0)
			t.Cleanup(func() { scaleController(t, replicas) })
			deleteService(t, mirror)
			eventually(t, time.Minute, "no new connection is possible", func(ctx context.Context) error {
				return isClosed(ctx, getTCP, externalIPs()[0], port)
			})
			wantAllAlive(t, live)
			scaleController(t, replicas)
		}},
	)
	for _, e := range events {
		began := time.Now()
		e.do()
		restored()
		wantOpen(t, getTCP, "web", port, addressesOf(nodes, externalIP)...)
		t.Logf("%s: all is as before after %.2fs", e.what, time.Since(began).Seconds())
		wantAllAlive(t, live)
	}
}

func deleteService(t *testing.T, svc *v1.Service) {
	t.Helper()
	if err := client.CoreV1().Services(svc.Namespace).Delete(t.Context(), svc.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func emptyStatus(t *testing.T, svc *v1.Service) {
	t.Helper()
	if _, err := client.CoreV1().Services(svc.Namespace).Patch(t.Context(), svc.Name, types.MergePatchType, []byte(`{"status": null}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

func restartKubeProxy(t *testing.T, node cluster.Node) {
	t.Helper()
	if err := sandbox.RestartKubeProxy(t.Context(), node.Name); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "kube-proxy works on "+node.Name, func(ctx context.Context) error {
		status, _, err := httpGet(ctx, shortly, from(node.Name), node.InternalIP, 10256, "/healthz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("it says %d", status)
		}
		return err
	})
}
