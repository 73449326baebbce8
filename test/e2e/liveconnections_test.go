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

// The datapaths run one after the other: killing controllers and kube-proxies for one disturbs the
// other.
func TestDatapathLiveConnections(t *testing.T) {
	for _, d := range datapathsOf(v1.IPv4Protocol) {
		t.Run(d.name, func(t *testing.T) {
			ns, port := newNamespace(t), freePort()
			newBackend(t, ns, "web")
			svc := d.newService(t, ns, func(s *v1.Service) {
				withAnnotation(drainSeconds, strconv.Itoa(int(drainTime.Seconds())))(s)
				inAllFamilies(s)
			}, servicePort(v1.ProtocolTCP, port))
			all := addressesOf(cluster.Nodes(cluster.GCE), externalIP)
			wantAddresses(t, svc, time.Minute, all...)
			wantOpen(t, getTCP, "web", port, all...)
			// 1,000 connections, spread over the addresses of all families.
			live := map[string]liveConns{}
			for i, address := range all {
				live[address] = openLiveConns(t, (1000+i)/len(all), address, port)
			}
			if d.direct {
				disturbDirect(t, svc, port, live)
			} else {
				replaceProxies(t, svc, port, live)
			}
			wantAllAlive(t, live)
		})
	}
}

func wantAllAlive(t *testing.T, live map[string]liveConns) {
	t.Helper()
	slices.Concat(slices.Collect(maps.Values(live))...).wantAlive(t)
}

const (
	// drainTime is how long a proxy of these tests serves after it was deleted.
	drainTime = 3 * time.Second
	// resetTime is how long after its deletion a proxy answers packets, at the end with resets: the
	// kubelet signals it a second late, and connections in use get a second to receive a reset.
	resetTime = time.Second + drainTime + time.Second
)

// replacement is the replacement of a proxy: the connections through the old one, when it was
// deleted, and when the addresses of its node were back.
type replacement struct {
	through       liveConns
	deleted, done time.Time
}

// replaceProxies replaces each node's proxy twice, and once in mode nftables, which differs little.
// The connections through each must last for the drain time; new ones take their places.
func replaceProxies(t *testing.T, svc *v1.Service, port int, live map[string]liveConns) {
	t.Helper()
	var replacements []replacement
	nodes, times := cluster.Nodes(cluster.GCE), 2
	if sandbox.KubeProxyMode() == cluster.NFTables {
		times = 1
	}
	for i := range times * len(nodes) {
		node := nodes[i%len(nodes)]
		own := addressesOf([]cluster.Node{node}, externalIP)
		others := slices.DeleteFunc(cluster.Nodes(cluster.GCE), func(n cluster.Node) bool { return n.Name == node.Name })
		r := replacement{deleted: time.Now()}
		deletePod(t, proxyOn(t, svc, node.Name))
		wantAddresses(t, svc, time.Minute, addressesOf(others, externalIP)...)
		withdrawn := time.Since(r.deleted)
		for _, address := range own {
			if err := servesUntil(t.Context(), r.deleted.Add(drainTime), address, inSameFamily(address, others), port); err != nil {
				t.Errorf("%s did not serve by %s any more when its address was withdrawn, after %.2fs: %v", node.Name, address, withdrawn.Seconds(), err)
			}
		}
		wantAddresses(t, svc, time.Minute, addressesOf(nodes, externalIP)...)
		r.done = time.Now()
		t.Logf("replacement %d: the address was withdrawn from %.2fs to %.2fs after the proxy's deletion", i+1, withdrawn.Seconds(), r.done.Sub(r.deleted).Seconds())
		for _, address := range own {
			r.through = append(r.through, live[address]...)
			live[address] = openLiveConns(t, len(live[address]), address, port)
		}
		replacements = append(replacements, r)
	}
	wantDrained(t, replacements)
}

// wantDrained checks that the connections through replaced proxies lasted for the drain time, and
// were reset if they ended while the proxy still answered.
func wantDrained(t *testing.T, replacements []replacement) {
	t.Helper()
	var ended []ending
	first, last := time.Hour, time.Duration(0)
	for i, r := range replacements {
		ends := r.through.endings(t, r.done)
		for _, e := range ends {
			lasted := e.lived().Sub(r.deleted)
			first, last = min(first, lasted), max(last, e.known.Sub(r.deleted))
			if lasted < drainTime {
				t.Errorf("replacement %d: a connection ended %.2fs after its proxy's deletion, want %s or more: %v", i+1, lasted.Seconds(), drainTime, e.err)
			}
			if lasted < resetTime && !errors.Is(e.err, syscall.ECONNRESET) {
				t.Errorf("replacement %d: a connection ended %.2fs after its proxy's deletion, want a reset: %v", i+1, lasted.Seconds(), e.err)
			}
		}
		ended = append(ended, ends...)
	}
	t.Logf("%d connections ended, the first %.2fs after its proxy's deletion, and the last end was known after %.2fs: %s", len(ended), first.Seconds(), last.Seconds(), strings.Join(causes(ended), "; "))
}

// servesUntil reports why a new connection failed before the end of a drain time. It excuses a
// time-out if a connection to another address, of a node without any change, times out too: then
// the machine is slow.
func servesUntil(ctx context.Context, end time.Time, address, another string, port int) error {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	control := make(chan error, 1)
	go func() { control <- connectOnce(ctx, another, port) }()
	err := connectOnce(ctx, address, port)
	if isTimeout(err) {
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

// inSameFamily returns an external address of one of some nodes, in the IP family of another
// address.
func inSameFamily(address string, nodes []cluster.Node) string {
	for _, other := range addressesOf(nodes, externalIP) {
		if internetIP(other) == internetIP(address) {
			return other
		}
	}
	return ""
}

// disturbDirect disturbs a Service of datapath direct in ten ways. None of them ends a connection.
func disturbDirect(t *testing.T, svc *v1.Service, port int, live map[string]liveConns) {
	t.Helper()
	nodes := cluster.Nodes(cluster.GCE)
	restored := func() *v1.Service { return wantMirror(t, svc, port, addressesOf(nodes, internalIP)...) }
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
		event{"its mirror was deleted", func() { deleteMirror(t, mirror) }},
		event{"it got another port", func() {
			editService(t, svc, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, another)) })
		}},
		event{"it got source ranges", func() { editService(t, svc, onlyFrom(internetIPs()...)) }},
		event{"it lost its source ranges", func() {
			editService(t, svc, func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = nil })
		}},
		event{"the controller managers were killed", func() { killController(t) }},
		event{"its mirror was missing for a while", func() {
			scaleController(t, 0)
			t.Cleanup(func() { scaleController(t, replicas) })
			deleteMirror(t, mirror)
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
		t.Logf("%s: restored after %.2fs", e.what, time.Since(began).Seconds())
		wantAllAlive(t, live)
	}
}

func emptyStatus(t *testing.T, mirror *v1.Service) {
	t.Helper()
	services := asHostportCCM(t).CoreV1().Services(mirror.Namespace)
	if _, err := services.Patch(t.Context(), mirror.Name, types.MergePatchType, []byte(`{"status": null}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

func deleteMirror(t *testing.T, mirror *v1.Service) {
	t.Helper()
	if err := asHostportCCM(t).CoreV1().Services(mirror.Namespace).Delete(t.Context(), mirror.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func restartKubeProxy(t *testing.T, node cluster.Node) {
	t.Helper()
	if err := sandbox.Restart(t.Context(), node.Name, cluster.KubeProxy); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "kube-proxy works on "+node.Name, func(ctx context.Context) error {
		status, _, err := httpGet(ctx, attemptTimeout, from(node.Name), node.InternalIP, 10256, "/healthz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("its health check returns %d", status)
		}
		return err
	})
}
