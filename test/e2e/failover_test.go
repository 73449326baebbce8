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

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDeadNodeLeavesBeforeKubernetesNotices(t *testing.T) {
	node := nodeWithoutController(t)
	svc := newWeb(t)
	powerCycle(t, node, func() {
		wantGoneWhileReady(t, svc, node)
		wantNodeEvent(t, node, "LoadBalancerNodeDown")
		wantRolloutWithout(t, svc, node)
	})
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 443, externalIPs()...)
}

// wantRolloutWithout changes the port, which replaces the proxies, and checks
// that a dead node does not keep it from the others.
func wantRolloutWithout(t *testing.T, svc *v1.Service, dead cluster.Node) {
	t.Helper()
	eventually(t, 3*time.Minute, "Kubernetes notices that "+dead.Name+" is off", func(ctx context.Context) error {
		live, err := client.CoreV1().Nodes().Get(ctx, dead.Name, metav1.GetOptions{})
		if err == nil && isNodeReady(live) {
			err = errors.New("it is Ready")
		}
		return err
	})
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = []v1.ServicePort{servicePort(v1.ProtocolTCP, 443)} })
	wantOpen(t, getTCP, "web", 443, externalIPs(dead.Name)...)
	wantAddresses(t, svc, time.Minute, externalIPs(dead.Name)...)
}

func isNodeReady(node *v1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

func TestLeadersOwnDeadNodeLeavesBeforeKubernetesNotices(t *testing.T) {
	node := leadersNode(t)
	svc := newWeb(t)
	powerCycle(t, node, func() { wantGoneWhileReady(t, svc, node) })
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
}

// newWeb makes a Service that all nodes serve.
func newWeb(t *testing.T) *v1.Service {
	t.Helper()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 80, externalIPs()...)
	return svc
}

// wantGoneWhileReady waits until the address of a node that was just powered off
// has left, while Kubernetes still calls the node Ready. Kubernetes needs 40
// seconds or more to find out, so this is no race, however slow the machine.
func wantGoneWhileReady(t *testing.T, svc *v1.Service, node cluster.Node) {
	t.Helper()
	off := time.Now()
	eventually(t, time.Minute, "the address of "+node.Name+" has left", func(ctx context.Context) error {
		live, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !isNodeReady(live) {
			t.Fatalf("Kubernetes was faster to notice that %s is off", node.Name)
		}
		got, err := addresses(ctx, svc)
		if err == nil && !slices.Equal(got, externalIPs(node.Name)) {
			err = fmt.Errorf("the addresses are %v", got)
		}
		return err
	})
	t.Logf("%s was powered off %.1fs before", node.Name, time.Since(off).Seconds())
}

func wantNodeEvent(t *testing.T, node cluster.Node, reason string) {
	t.Helper()
	eventually(t, 20*time.Second, "event "+reason+" on "+node.Name, func(ctx context.Context) error {
		list, err := client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + node.Name + ",reason=" + reason})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
}

// leadersNode returns the node on which the leader runs. In the host's network
// a pod has its node's name.
func leadersNode(t *testing.T) cluster.Node {
	t.Helper()
	identity, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(identity, "_")
	for _, n := range cluster.Nodes(cluster.GCE) {
		if n.Name == host {
			return n
		}
	}
	t.Fatalf("the leader is %q, on no node", identity)
	return cluster.Node{}
}

func TestControllerThatIsCutOffWithdrawsNothing(t *testing.T) {
	svc := newWeb(t)
	from := leadersNode(t)
	before, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cutOff(t, from)
	// Twice as long as it takes to withdraw a dead node's address.
	steady(t, 16*time.Second, "all addresses", func() error {
		got, err := addresses(t.Context(), svc)
		if err == nil && !slices.Equal(got, externalIPs()) {
			err = fmt.Errorf("they are %v", got)
		}
		return err
	})
	dropped, err := sandbox.Exec(t.Context(), from.Name, "nft", "list", "table", "inet", "cutoff")
	if err != nil || !strings.Contains(dropped, "packets") || strings.Contains(dropped, "packets 0") {
		t.Errorf("the leader was not cut off, its node dropped: %s (%v)", dropped, err)
	}
	if now, err := leader(t.Context()); err != nil || now != before {
		t.Errorf("the leader changed from %s to %s (%v)", before, now, err)
	}
}

// cutOff has a node drop what it sends to the other nodes, until the test ends.
func cutOff(t *testing.T, from cluster.Node) {
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
