//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestBareMetalExternalIPsOfANodeArePublished(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	nodes := cluster.Nodes(cluster.BareMetal)
	wantAddresses(t, svc, time.Minute, nodes[0].InternalIP, nodes[1].InternalIP, nodes[2].InternalIP)

	const external = "203.0.113.51" // sorts last
	addAddress(t, nodes[0], external)
	annotateNode(t, nodes[0].Name, "nonsense,"+external)
	wantAddresses(t, svc, time.Minute, nodes[1].InternalIP, nodes[2].InternalIP, external)
	wantOpen(t, getTCP, "web", 80, external)
	eventually(t, time.Minute, "the node shows its external address beside its own", func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, nodes[0].Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := nodeAddress(node, v1.NodeExternalIP) + " " + nodeAddress(node, v1.NodeInternalIP); got != external+" "+internalIPs(nodes[0]) {
			return fmt.Errorf("it shows %s", got)
		}
		return nil
	})
	wantNodeEvent(t, nodes[0], "ExternalIPsInvalid", "nonsense")

	// It replaces what others write, which the node controller keeps for some time.
	steady(t, 5*time.Second, "the right address alone is published", func() error {
		addNodeAddress(t, nodes[0].Name, v1.NodeAddress{Type: v1.NodeExternalIP, Address: "203.0.113.99"})
		got, err := addresses(t.Context(), svc)
		if want := []string{nodes[1].InternalIP, nodes[2].InternalIP, external}; err == nil && !sameElements(got, want) {
			err = fmt.Errorf("%v are", got)
		}
		return err
	})
	wantOpen(t, getTCP, "web", 80, external)

	annotateNode(t, nodes[0].Name, "")
	wantAddresses(t, svc, time.Minute, nodes[0].InternalIP, nodes[1].InternalIP, nodes[2].InternalIP)
}

// addAddress adds an address to a node and a route to it, until the test ends.
func addAddress(t *testing.T, node cluster.Node, address string) {
	t.Helper()
	ipAdd(t, node.Name, "addr %s "+address+"/32 dev eth0")
	ipAdd(t, cluster.Gateway, "route %s "+address+"/32 via "+node.InternalIP)
}

// ipAdd runs ip on a host with arguments in which %s is replaced by "add", and by "del" when the
// test ends.
func ipAdd(t *testing.T, host, words string) {
	t.Helper()
	ip := func(ctx context.Context, verb string) error {
		_, err := sandbox.Exec(ctx, host, append([]string{"ip"}, strings.Fields(fmt.Sprintf(words, verb))...)...)
		return err
	}
	if err := ip(t.Context(), "add"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip(context.WithoutCancel(t.Context()), "del"); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// addNodeAddress adds an address to the status of a Node, as another controller may do.
func addNodeAddress(t *testing.T, name string, address v1.NodeAddress) {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(node.Status.Addresses, address) {
		return
	}
	node.Status.Addresses = append(node.Status.Addresses, address)
	if _, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		t.Fatal(err)
	}
}

// annotateNode sets the annotation with a Node's external addresses; the empty string removes it.
func annotateNode(t *testing.T, name, addresses string) {
	t.Helper()
	value := fmt.Sprintf("%q", addresses)
	if addresses == "" {
		value = "null"
	}
	patch := fmt.Sprintf(`{"metadata": {"annotations": {"hostport-ccm.io/external-ips": %s}}}`, value)
	if _, err := client.CoreV1().Nodes().Patch(context.WithoutCancel(t.Context()), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
