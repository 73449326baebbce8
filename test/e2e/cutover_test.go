//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDirectCutoverTakesUDPFlowsFromProxies(t *testing.T) {
	needKubernetes(t, "1.32", "kube-proxy deletes only the tracked flows of endpoints that it has seen leave, and proxies are none")
	ns, port := newNamespace(t), freePort()
	backend := newPod(t, ns, "web", "node1")
	svc := newService(t, ns, "web", withDatapath(options.DatapathProxy), servicePort(v1.ProtocolUDP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getUDP, "web", port, externalIPs()...)
	all := newFlows(t, port, externalIPs()...)
	all.wantAnsweredBy(t, backend)
	editService(t, svc, withDatapath(options.DatapathDirect))
	awaitNoProxies(t, svc)
	all.wantAnsweredBy(t, backend)
}

func TestDirectCutoverAndBackUnderNewConnections(t *testing.T) {
	cutOverAndBack(t, cluster.Nodes(cluster.GCE), externalIP, func(svc *v1.Service) {
		wantMirror(t, svc, int(svc.Spec.Ports[0].Port), addressesOf(cluster.Nodes(cluster.GCE), internalIP)...)
	}, awaitNoMirror)
}

func TestBareMetalDirectCutoverAndBackUnderNewConnections(t *testing.T) {
	cutOverAndBack(t, cluster.Nodes(cluster.BareMetal), internalIP, func(svc *v1.Service) {
		wantMode(t, svc, v1.LoadBalancerIPModeVIP)
	}, func(t *testing.T, svc *v1.Service) {
		wantMode(t, svc, v1.LoadBalancerIPModeProxy)
		if _, err := mirrorOf(t.Context(), svc); err == nil {
			t.Error("there is a mirror, which is not needed")
		}
	})
}

// cutOverAndBack changes a Service from proxies to direct and back under new connections. direct
// waits until kube-proxy serves the Service on all nodes, back until it serves it on none. In mode
// nftables the host port of a proxy that is starting precedes kube-proxy's rules.
func cutOverAndBack(t *testing.T, nodes []cluster.Node, address func(cluster.Node) string, direct func(*v1.Service), back func(*testing.T, *v1.Service)) {
	t.Helper()
	ns, port, all := newNamespace(t), freePort(), addressesOf(nodes, address)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) { withDatapath(options.DatapathProxy)(s); inAllFamilies(s) }, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, all...)
	wantOpen(t, getTCP, "web", port, all...)

	connections := startNewConnections(t, port, nodes, address)
	editService(t, svc, withDatapath(options.DatapathDirect))
	direct(svc)
	awaitNoProxies(t, svc)
	wantAddresses(t, svc, time.Minute, all...)
	if sandbox.KubeProxyMode() == cluster.NFTables {
		connections.wantOneLostPerAddress(t, "from proxies to direct")
	} else {
		connections.wantNoneFailed(t, "from proxies to direct")
	}

	established := map[string]liveConns{}
	for _, a := range all {
		established[a] = openLiveConns(t, 10, a, port)
	}
	connections = startNewConnections(t, port, nodes, address)
	editService(t, svc, withDatapath(options.DatapathProxy))
	back(t, svc)
	wantAddresses(t, svc, time.Minute, all...)
	wantOpen(t, getTCP, "web", port, all...)
	if sandbox.KubeProxyMode() == cluster.NFTables {
		connections.wantRefusedOnlyByStartingProxies(t, "from direct to proxies", svc)
	} else {
		connections.wantNoneFailed(t, "from direct to proxies")
	}
	wantAllAlive(t, established)
}

func awaitNoMirror(t *testing.T, svc *v1.Service) {
	t.Helper()
	awaitNone(t, svc, "mirrors", func(ctx context.Context, own metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Services(svc.Namespace).List(ctx, own)
	})
}

func awaitNoProxies(t *testing.T, svc *v1.Service) {
	t.Helper()
	awaitNone(t, svc, "proxies", func(ctx context.Context, own metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, own)
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
