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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// internalIPs are what a Node shows as internal. The kubelet's --node-ip has the
// IPv6 address, so it counts as such although it is external.
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

// managerOf returns who wrote a field, by the API server's own account.
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

func TestNodeStaysUninitialisedUntilWeInitialiseIt(t *testing.T) {
	node := cluster.Nodes(cluster.GCE)[2]
	t.Cleanup(func() { scaleController(t, replicas) })
	scaleController(t, 0)
	powerCycle(t, node, func() {
		if err := client.CoreV1().Nodes().Delete(t.Context(), node.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, time.Minute, "the kubelet has made its Node again", func(ctx context.Context) error {
		_, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		return err
	})
	steady(t, 5*time.Second, "the taint of a node that nobody initialises", func() error {
		live, err := client.CoreV1().Nodes().Get(t.Context(), node.Name, metav1.GetOptions{})
		if err == nil && !slices.ContainsFunc(live.Spec.Taints, func(taint v1.Taint) bool { return taint.Key == uninitialized }) {
			err = errors.New("somebody else has removed it")
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

// powerCycle runs something between a node's power off and its power on. The
// node is on and the controller manager runs afterwards in any case.
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
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()...)

	const fresh = "203.0.113.112" // sorts last
	node := cluster.Nodes(cluster.GCE)[1]
	setExternalIP(t, node, fresh)
	t.Cleanup(func() {
		setExternalIP(t, node, node.ExternalIP)
		wantAddresses(t, svc, 2*time.Minute, externalIPs()...)
	})
	want := append(externalIPs(node.Name), fresh)
	wantAddresses(t, svc, 2*time.Minute, want...)
	wantOpen(t, getTCP, "web", 80, want...)
	wantClosed(t, getTCP, 80, node.ExternalIP)
}

func setExternalIP(t *testing.T, node cluster.Node, ip string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if err := sim.PatchInstance(ctx, node.Zone, node.Name, map[string]any{"natIP": ip}); err != nil {
		t.Fatal(err)
	}
}

func TestAddressOfANodeThatIsPoweredOffLeavesTheStatus(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()...)

	node := nodeWithoutController(t)
	powerCycle(t, node, func() {
		wantAddresses(t, svc, 3*time.Minute, externalIPs(node.Name)...)
		wantOpen(t, getTCP, "web", 80, externalIPs(node.Name)...)
	})
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 80, externalIPs()...)
}

// nodeWithoutController returns a node whose loss is not that of a controller
// manager.
func nodeWithoutController(t *testing.T) cluster.Node {
	t.Helper()
	pods, err := controllerPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range cluster.Nodes(cluster.GCE) {
		if !slices.ContainsFunc(pods, func(p v1.Pod) bool { return p.Spec.NodeName == n.Name }) {
			return n
		}
	}
	t.Fatal("there is a controller manager on every node")
	return cluster.Node{}
}

// replicas of the controller manager, as the manifests have it.
const replicas = 2

// scaleController runs that many controller managers, and waits until they run
// and no others.
func scaleController(t *testing.T, replicas int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
	defer cancel()
	if _, err := sandbox.Kubectl(ctx, "-n", cluster.ProductNamespace, "scale", cluster.ProductDeployment, fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		t.Fatal(err)
	}
	for {
		pods, err := controllerPods(ctx)
		ready := len(pods) == replicas && !slices.ContainsFunc(pods, func(p v1.Pod) bool { return !isReady(p) })
		if err == nil && ready {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("scale the controller manager to %d: there are %d pods, not all of them ready (%v)", replicas, len(pods), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// controllerPods are the pods of the controller manager on nodes that are on.
func controllerPods(ctx context.Context) ([]v1.Pod, error) {
	list, err := client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=hostport-ccm"})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	return list.Items, nil
}

func isReady(p v1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	})
}
