//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestMaxNodesKeepsServingNodesAndReplacesExcludedOnes(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/max-nodes": "1"}
	}, servicePort(v1.ProtocolTCP, freePort()))
	eventually(t, time.Minute, "one node is published", func(ctx context.Context) error {
		return oneAddress(ctx, svc, "")
	})
	before, err := addresses(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	first := nodeOf(before[0])
	t.Cleanup(func() { label(t, first, "null") })
	label(t, first, `""`)
	eventually(t, time.Minute, "another node takes over from "+first, func(ctx context.Context) error {
		return oneAddress(ctx, svc, before[0])
	})
	after, err := addresses(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	label(t, first, "null")
	eventually(t, time.Minute, "the proxy is back on "+first, func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, ownedBy(svc))
		if err != nil || len(pods.Items) != len(externalIPs()) {
			return fmt.Errorf("%d proxies (%v)", len(pods.Items), err)
		}
		return nil
	})
	wantAddressesStay(t, svc, 5*time.Second, after...)
}

func oneAddress(ctx context.Context, svc *v1.Service, other string) error {
	got, err := addresses(ctx, svc)
	if err == nil && (len(got) != 1 || got[0] == other) {
		err = fmt.Errorf("it has %v", got)
	}
	return err
}

func nodeOf(ip string) string { return fmt.Sprint("node", slices.Index(externalIPs(), ip)+1) }

// label sets the label that excludes a node from load balancers; value is JSON.
func label(t *testing.T, node, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, v1.LabelNodeExcludeBalancers, value)
	if _, err := client.CoreV1().Nodes().Patch(context.WithoutCancel(t.Context()), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

func TestCordonAloneKeepsTheAddressAndTheExcludeLabelRemovesIt(t *testing.T) {
	svc, _ := newWeb(t)
	t.Cleanup(func() { cordon(t, "node1", false); label(t, "node1", "null") })
	cordon(t, "node1", true)
	wantAddressesStay(t, svc, 3*time.Second, externalIPs()...)
	label(t, "node1", `""`)
	wantAddresses(t, svc, time.Minute, externalIPs()[1:]...)
	label(t, "node1", "null")
	cordon(t, "node1", false)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
}

func cordon(t *testing.T, node string, on bool) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"unschedulable":%t}}`, on)
	if _, err := client.CoreV1().Nodes().Patch(context.WithoutCancel(t.Context()), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

func TestPolicyLocalFollowsTheEndpoints(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	first := newPod(t, ns, "web", "node1")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
	}, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()[:1]...)
	wantOpen(t, getTCP, "web", port, externalIPs()[0])

	second := newPod(t, ns, "web", "node2")
	wantAddresses(t, svc, time.Minute, externalIPs()[:2]...)
	first.remove(t)
	wantAddresses(t, svc, time.Minute, externalIPs()[1])
	wantOpen(t, getTCP, "web", port, externalIPs()[1])
	second.remove(t)
	wantAddressesStay(t, svc, 3*time.Second, externalIPs()[1:2]...)
}
