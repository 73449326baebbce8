//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
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

const uninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

func TestNodesAreInitialised(t *testing.T) {
	for _, want := range cluster.Nodes(cluster.GCE) {
		node, err := client.CoreV1().Nodes().Get(t.Context(), want.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := isInitialised(node, want); err != nil {
			t.Errorf("%s: %v", want.Name, err)
		}
		if manager := managerOf(t, node.ManagedFields, "f:spec", "f:providerID"); manager != "hostport-ccm" {
			t.Errorf("%s: the provider id was set by %q", want.Name, manager)
		}
	}
}

func isInitialised(node *v1.Node, want cluster.Node) error {
	var errs []error
	equal := func(what, got, want string) {
		if got != want {
			errs = append(errs, fmt.Errorf("%s is %q, want %q", what, got, want))
		}
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == uninitialized {
			errs = append(errs, errors.New("it is tainted as uninitialised"))
		}
	}
	equal("provider id", node.Spec.ProviderID, "gce://"+cluster.Project+"/"+want.Zone+"/"+want.Name)
	equal("zone", node.Labels[v1.LabelTopologyZone], want.Zone)
	equal("region", node.Labels[v1.LabelTopologyRegion], cluster.Region)
	equal("instance type", node.Labels[v1.LabelInstanceTypeStable], cluster.MachineType)
	equal("InternalIP", nodeAddress(node, v1.NodeInternalIP), internalIPs(want))
	equal("ExternalIP", nodeAddress(node, v1.NodeExternalIP), want.ExternalIP)
	return errors.Join(errs...)
}

// internalIPs returns the addresses of type InternalIP of a Node. The kubelet's --node-ip contains
// the IPv6 address, which therefore has this type although it is external.
func internalIPs(n cluster.Node) string {
	return strings.Join(addressesOf([]cluster.Node{n}, internalIP), ",")
}

func nodeAddress(node *v1.Node, kind v1.NodeAddressType) string {
	var all []string
	for _, a := range node.Status.Addresses {
		if a.Type == kind {
			all = append(all, a.Address)
		}
	}
	return strings.Join(all, ",")
}

// managerOf returns the field manager that wrote a field.
func managerOf(t *testing.T, entries []metav1.ManagedFieldsEntry, path ...string) string {
	t.Helper()
	for _, entry := range entries {
		var fields map[string]any
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
			t.Fatal(err)
		}
		found := true
		for _, key := range path {
			next, ok := fields[key].(map[string]any)
			if found = found && ok; ok {
				fields = next
			}
		}
		if found {
			return entry.Manager
		}
	}
	return ""
}

func TestNodeStaysUninitialisedUntilHostportCCMInitialisesIt(t *testing.T) {
	node := cluster.Nodes(cluster.GCE)[2]
	t.Cleanup(func() { scaleController(t, replicas) })
	scaleController(t, 0)
	powerCycle(t, node, func() {
		if err := client.CoreV1().Nodes().Delete(t.Context(), node.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, time.Minute, "the kubelet has created its Node again", func(ctx context.Context) error {
		_, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		return err
	})
	steady(t, 5*time.Second, "the taint of a node without a controller that initialises it", func() error {
		live, err := client.CoreV1().Nodes().Get(t.Context(), node.Name, metav1.GetOptions{})
		if err == nil && !slices.ContainsFunc(live.Spec.Taints, func(taint v1.Taint) bool { return taint.Key == uninitialized }) {
			err = errors.New("it was removed")
		}
		return err
	})
	scaleController(t, replicas)
	eventually(t, 2*time.Minute, "hostport-ccm has initialised the node", func(ctx context.Context) error {
		live, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return isInitialised(live, node)
	})
}

// powerCycle powers a node off, runs a function, and powers the node on. When the test ends, the
// node is on and the controller manager runs in any case.
func powerCycle(t *testing.T, node cluster.Node, between func()) {
	t.Helper()
	eventually(t, time.Minute, node.Name+" has a Lease, seconds after its first start", func(ctx context.Context) error {
		_, err := client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, node.Name, metav1.GetOptions{})
		return err
	})
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_ = sandbox.StartNode(ctx, node.Name) // it is on already if all went well
		scaleController(t, replicas)
	})
	if err := sandbox.StopNode(t.Context(), node.Name); err != nil {
		t.Fatal(err)
	}
	between()
	if err := sandbox.StartNode(t.Context(), node.Name); err != nil {
		t.Fatal(err)
	}
}

func TestNewExternalIPOfANodeReachesTheService(t *testing.T) {
	svc, port := newWeb(t)

	const fresh = "203.0.113.112" // sorts last
	node := cluster.Nodes(cluster.GCE)[1]
	setExternalIP(t, node, fresh)
	t.Cleanup(func() {
		setExternalIP(t, node, node.ExternalIP)
		wantAddresses(t, svc, 2*time.Minute, externalIPs()...)
	})
	want := append(externalIPs(node.Name), fresh)
	wantAddresses(t, svc, 2*time.Minute, want...)
	wantOpen(t, getTCP, "web", port, want...)
	wantClosed(t, getTCP, port, node.ExternalIP)
}

func setExternalIP(t *testing.T, node cluster.Node, ip string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if err := sim.PatchInstance(ctx, node.Zone, node.Name, map[string]any{"natIP": ip}); err != nil {
		t.Fatal(err)
	}
}

func TestAddressOfANodeThatIsPoweredOffLeavesTheStatus(t *testing.T) {
	svc, port := newWeb(t)

	node := nodeWithoutController(t)
	powerCycle(t, node, func() {
		wantAddresses(t, svc, 3*time.Minute, externalIPs(node.Name)...)
		wantOpen(t, getTCP, "web", port, externalIPs(node.Name)...)
	})
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}
