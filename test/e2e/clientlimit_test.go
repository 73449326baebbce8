//go:build e2e

package e2e

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

const maxConnectionsPerClient = "hostport-ccm.io/max-connections-per-client"

func TestAClientGetsAtMostItsLimitOfConnections(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", withAnnotation(maxConnectionsPerClient, "5"), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	addresses := externalIPs()
	before := proxies(t, svc)

	held := openLiveConns(t, 5, addresses[0], port)
	wantClosed(t, getTCP, port, addresses[0])
	wantOpen(t, getTCP, "web", port, addresses[1:]...)
	wantOpen(t, protocols[0].getFrom(cluster.Internet2), "web", port, addresses[0])
	held.wantAlive(t)

	editService(t, svc, func(svc *v1.Service) { delete(svc.Annotations, maxConnectionsPerClient) })
	wantOpen(t, getTCP, "web", port, addresses[0])
	held.wantAlive(t)
	wantUnchanged(t, svc, before)
}
