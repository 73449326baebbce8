//go:build e2e

package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// Tests named TestBareMetal and TestGKE need a sandbox of that profile, all others one of profile
// gce, TestDualStack with both IP families. TestDatapath, TestDirect and TestDualStack run with
// kube-proxy in either mode, in mode nftables with proxies in user namespaces. `make e2e` starts a
// sandbox for each; that of profile gke has no IPv6.

func TestBareMetalNodesAreInitialisedWithoutACloud(t *testing.T) {
	for _, want := range cluster.Nodes(cluster.BareMetal) {
		node, err := client.CoreV1().Nodes().Get(t.Context(), want.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if node.Spec.ProviderID != "hostport://"+want.Name {
			t.Errorf("%s: provider id %q", want.Name, node.Spec.ProviderID)
		}
		if got, own := nodeAddress(node, v1.NodeInternalIP), internalIPs(want); got != own {
			t.Errorf("%s: InternalIP %q, want %q", want.Name, got, own)
		}
	}
}

func TestBareMetalServiceIsServedOnTheNodesOwnAddresses(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	own := addressesOf(cluster.Nodes(cluster.BareMetal), internalIP)
	wantClosed(t, getTCP, 80, own...)
	svc := newService(t, ns, "web", inAllFamilies, servicePort(v1.ProtocolTCP, 80), servicePort(v1.ProtocolUDP, 5353))
	wantAddresses(t, svc, time.Minute, own...)
	wantOpen(t, getTCP, "web", 80, own...)
	wantOpen(t, getUDP, "web", 5353, own...)
	wantClosed(t, getTCP, 81, own...)

	deleteService(t, svc)
	eventually(t, time.Minute, "port 80 is closed again", func(ctx context.Context) error {
		return errors.Join(hasNoOrphans(ctx, svc), isClosed(ctx, getTCP, own[0], 80))
	})
}
