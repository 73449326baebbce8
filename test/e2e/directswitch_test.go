//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// stream connects to a port of all addresses, again and again, until it is
// stopped, and returns how many connections it made and what went wrong.
func stream(t *testing.T, port int, addresses ...string) (stop func() (made int, failed []string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var all sync.WaitGroup
	var mu sync.Mutex
	var made int
	var failed []string
	for _, address := range addresses {
		all.Go(func() {
			for ctx.Err() == nil {
				err := connectOnce(context.WithoutCancel(ctx), address, port)
				mu.Lock()
				if made++; err != nil {
					failed = append(failed, err.Error())
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, []string) {
		cancel()
		all.Wait()
		return made, failed
	}
}

// count counts errors that say the same.
func count(errors []string) map[string]int {
	times := map[string]int{}
	for _, e := range errors {
		times[e]++
	}
	return times
}

func awaitNoProxies(t *testing.T, svc *v1.Service) {
	t.Helper()
	awaitNone(t, svc, "proxies", func(ctx context.Context, own metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, own)
	})
}

func awaitNoMirror(t *testing.T, svc *v1.Service) {
	t.Helper()
	awaitNone(t, svc, "mirrors", func(ctx context.Context, own metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Services(svc.Namespace).List(ctx, own)
	})
}

// awaitNone waits until a list of what was made for a Service is empty.
func awaitNone(t *testing.T, svc *v1.Service, what string, list func(context.Context, metav1.ListOptions) (runtime.Object, error)) {
	t.Helper()
	eventually(t, time.Minute, "no "+what+" are left", func(ctx context.Context) error {
		all, err := list(ctx, ownedBy(svc))
		if err == nil && meta.LenList(all) > 0 {
			err = fmt.Errorf("there are %d", meta.LenList(all))
		}
		return err
	})
}

func TestDirectTakesUDPFlowsOverFromProxies(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	backend := newPod(t, ns, "web", "node1")
	svc := newService(t, ns, "web", by(options.DatapathProxy), servicePort(v1.ProtocolUDP, int32(port)))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getUDP, "web", port, externalIPs()...)
	all := newFlows(t, port, externalIPs()...)
	all.wantAnsweredBy(t, backend)
	editService(t, svc, by(options.DatapathDirect))
	awaitNoProxies(t, svc)
	all.wantAnsweredBy(t, backend)
}

func TestDirectAndBackUnderAStreamOfNewConnectionsLosesNone(t *testing.T) {
	loseNone(t, addressesOf(cluster.Nodes(cluster.GCE), externalIP), func(svc *v1.Service) {
		wantMirror(t, svc, svc.Spec.Ports[0].Port, addressesOf(cluster.Nodes(cluster.GCE), internalIP)...)
	}, awaitNoMirror)
}

func TestBareMetalDirectAndBackUnderAStreamOfNewConnectionsLosesNone(t *testing.T) {
	loseNone(t, addressesOf(cluster.Nodes(cluster.BareMetal), internalIP), func(svc *v1.Service) {
		wantMode(t, svc, v1.LoadBalancerIPModeVIP)
	}, func(t *testing.T, svc *v1.Service) {
		wantMode(t, svc, v1.LoadBalancerIPModeProxy)
		awaitNoMirror(t, svc)
	})
}

// loseNone switches a Service from proxies to direct and back under a stream of new
// connections. direct waits until kube-proxy is told of all nodes, back until it is
// told of none.
func loseNone(t *testing.T, all []string, direct func(*v1.Service), back func(*testing.T, *v1.Service)) {
	t.Helper()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) { by(options.DatapathProxy)(s); inAllFamilies(s) }, servicePort(v1.ProtocolTCP, int32(port)))
	wantAddresses(t, svc, time.Minute, all...)
	wantOpen(t, getTCP, "web", port, all...)

	stop := stream(t, port, all...)
	editService(t, svc, by(options.DatapathDirect))
	direct(svc)
	awaitNoProxies(t, svc)
	wantAddresses(t, svc, time.Minute, all...)
	wantNoneFailed(t, "from proxies to direct", stop)

	stop = stream(t, port, all...)
	editService(t, svc, by(options.DatapathProxy))
	back(t, svc)
	wantAddresses(t, svc, time.Minute, all...)
	wantOpen(t, getTCP, "web", port, all...)
	wantNoneFailed(t, "from direct to proxies", stop)
}

func wantNoneFailed(t *testing.T, way string, stop func() (made int, failed []string)) {
	t.Helper()
	made, failed := stop()
	t.Logf("%s: %d connections, failed %v", way, made, count(failed))
	if len(failed) > 0 {
		t.Errorf("%s %d of %d new connections failed", way, len(failed), made)
	}
}
