//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestFailedNodeIsWithdrawnBeforeKubernetesNotices(t *testing.T) {
	node := nodeWithoutController(t)
	svc, _ := newWeb(t)
	another := freePort()
	powerCycle(t, node, func() {
		waitWithdrawnWhileReady(t, svc, node)
		wantNodeEvent(t, node, "LoadBalancerNodeDown")
		wantRolloutWithout(t, svc, another, node)
	})
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", another, externalIPs()...)
}

// wantRolloutWithout gives the Service another port, which replaces the proxies, and checks that the
// other nodes serve it although one node is off.
func wantRolloutWithout(t *testing.T, svc *v1.Service, port int, off cluster.Node) {
	t.Helper()
	eventually(t, 3*time.Minute, "Kubernetes notices that "+off.Name+" is off", func(ctx context.Context) error {
		live, err := client.CoreV1().Nodes().Get(ctx, off.Name, metav1.GetOptions{})
		if err == nil && isNodeReady(live) {
			err = errors.New("it is Ready")
		}
		return err
	})
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = []v1.ServicePort{servicePort(v1.ProtocolTCP, port)} })
	wantOpen(t, getTCP, "web", port, externalIPs(off.Name)...)
	wantAddresses(t, svc, time.Minute, externalIPs(off.Name)...)
}

func isNodeReady(node *v1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

func TestFailedNodeOfTheLeaderIsWithdrawnBeforeKubernetesNotices(t *testing.T) {
	node := leadersNode(t)
	svc, _ := newWeb(t)
	others := slices.DeleteFunc(cluster.Nodes(cluster.GCE), func(n cluster.Node) bool { return n.Name == node.Name })
	newPod(t, svc.Namespace, "direct", others[0].Name)
	port := freePort()
	direct := newService(t, svc.Namespace, "direct", withDatapath(options.DatapathDirect), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, direct, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "direct", port, externalIPs()...)
	powerCycle(t, node, func() { waitWithdrawnWhileReady(t, svc, node) })
	// Kubernetes does not notice that the node was off, so its Ready condition says nothing of kube-proxy.
	wantAddresses(t, direct, 3*time.Minute, externalIPs()...)
	if err := connectOnce(t.Context(), node.ExternalIP, port); err != nil {
		t.Errorf("%s is published again, and kube-proxy does not serve it yet: %v", node.Name, err)
	}
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
}

// waitWithdrawnWhileReady waits until the address of a node that was just powered off is withdrawn,
// and checks that the Node is Ready until then. Kubernetes needs at least 40 seconds to notice, so
// this is no race on a slow machine.
func waitWithdrawnWhileReady(t *testing.T, svc *v1.Service, node cluster.Node) {
	t.Helper()
	off := time.Now()
	eventually(t, time.Minute, "the address of "+node.Name+" is withdrawn", func(ctx context.Context) error {
		live, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !isNodeReady(live) {
			t.Fatalf("Kubernetes was faster to notice that %s is off", node.Name)
		}
		got, err := addresses(ctx, svc)
		if err == nil && !sameElements(got, externalIPs(node.Name)) {
			err = fmt.Errorf("the addresses are %v", got)
		}
		return err
	})
	t.Logf("%s was powered off %.1fs before", node.Name, time.Since(off).Seconds())
}

func TestControllerWithoutNetworkWithdrawsNoAddress(t *testing.T) {
	svc, _ := newWeb(t)
	from := leadersNode(t)
	before, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	isolate(t, from)
	// Twice as long as it takes to withdraw a dead node's address.
	wantAddressesStay(t, svc, 16*time.Second, externalIPs()...)
	dropped, err := sandbox.Exec(t.Context(), from.Name, "nft", "list", "table", "inet", "cutoff")
	if err != nil || !strings.Contains(dropped, "packets") || strings.Contains(dropped, "packets 0") {
		t.Errorf("the leader was not cut off, its node dropped: %s (%v)", dropped, err)
	}
	if now, err := leader(t.Context()); err != nil || now != before {
		t.Errorf("the leader changed from %s to %s (%v)", before, now, err)
	}
}

// isolate makes a node drop its packets to the other nodes until the test ends.
func isolate(t *testing.T, from cluster.Node) {
	t.Helper()
	var others []string
	for _, n := range cluster.Nodes(cluster.GCE) {
		if n.Name != from.Name {
			others = append(others, n.InternalIP)
		}
	}
	nft := func(rules string) {
		if _, err := sandbox.Exec(context.WithoutCancel(t.Context()), from.Name, "nft", rules); err != nil {
			t.Fatal(err)
		}
	}
	nft(fmt.Sprintf("add table inet cutoff; add chain inet cutoff out { type filter hook output priority 0; }; add rule inet cutoff out ip daddr { %s } counter drop", strings.Join(others, ", ")))
	t.Cleanup(func() { nft("delete table inet cutoff") })
}
