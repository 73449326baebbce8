//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestRestartedControllerRewritesNothing(t *testing.T) {
	port, another := freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	newBackend(t, ns, "later")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	before, rule := versions(t, svc), ruleNames(t, svc)
	if err := sim.ForgetRequests(t.Context()); err != nil {
		t.Fatal(err)
	}

	killController(t)
	// The new Service is served after the existing ones were reconciled.
	later := newService(t, ns, "later", nil, servicePort(v1.ProtocolTCP, another))
	wantAddresses(t, later, 2*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "later", another, externalIPs()...)

	if diff := cmp.Diff(before, versions(t, svc)); diff != "" {
		t.Errorf("objects were rewritten after a restart (-before +after):\n%s", diff)
	}
	wantNoWrites(t, rule)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

// versions returns, by object, what changes when hostport-ccm writes a Service or an object made
// for it.
func versions(t *testing.T, svc *v1.Service) map[string]string {
	t.Helper()
	found := map[string]string{}
	live, err := client.CoreV1().Services(svc.Namespace).Get(t.Context(), svc.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found["Service"] = live.ResourceVersion
	sets, err := client.AppsV1().DaemonSets(cluster.ProductNamespace).List(t.Context(), ownedBy(svc))
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range sets.Items {
		// Its resource version also changes with the status, which hostport-ccm does
		// not write: proxies become available some time after they are ready.
		found["DaemonSet "+set.Name] = fmt.Sprint(set.UID, " generation ", set.Generation, set.Labels, set.Annotations)
	}
	maps, err := client.CoreV1().ConfigMaps(cluster.ProductNamespace).List(t.Context(), ownedBy(svc))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps.Items {
		found["ConfigMap "+m.Name] = m.ResourceVersion
	}
	pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(t.Context(), ownedBy(svc))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		// Its resource version also changes with the status, which the kubelet writes.
		found["Pod "+p.Name] = fmt.Sprint(p.UID, p.Labels, p.Annotations)
	}
	return found
}

// ruleNames returns the names of a Service's firewall rules.
func ruleNames(t *testing.T, svc *v1.Service) []string {
	t.Helper()
	rules, err := rulesOf(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, rule := range rules {
		names = append(names, rule.Name)
	}
	return names
}

// wantNoWrites checks that there was no request to change these firewall rules.
func wantNoWrites(t *testing.T, rules []string) {
	t.Helper()
	requests, err := sim.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		reads := r.Verb == "firewalls.get" || r.Verb == "firewalls.list"
		if slices.Contains(rules, r.Resource) && !reads {
			t.Errorf("a firewall rule that did not change was written: %s %s", r.Verb, r.Resource)
		}
	}
}

// killController kills every controller manager without a grace period, and waits until a new one
// leads.
func killController(t *testing.T) {
	t.Helper()
	before, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pods, err := controllerPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if err := client.CoreV1().Pods(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 2*time.Minute, "another controller manager leads", func(ctx context.Context) error {
		return leadsInsteadOf(ctx, before)
	})
}

// leadersKiller returns a function that kills the leading controller manager while it works on some
// Services, and waits until the other one leads.
func leadersKiller(t *testing.T) (kill func(unfinished ...*v1.Service)) {
	t.Helper()
	before, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// If its pod were deleted, it would release its lease.
	pod := leadersPod(t)
	container := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	return func(unfinished ...*v1.Service) {
		t.Helper()
		if _, err := sandbox.Exec(t.Context(), pod.Spec.NodeName, "ctr", "-n", "k8s.io", "task", "kill", "--signal", "SIGKILL", container); err != nil {
			t.Fatal(err)
		}
		for _, svc := range unfinished {
			if got, err := addresses(t.Context(), svc); err != nil || len(got) > 0 {
				t.Errorf("Service %s was finished before: %v (%v)", svc.Name, got, err)
			}
		}
		eventually(t, 2*time.Minute, "another controller manager leads", func(ctx context.Context) error {
			return leadsInsteadOf(ctx, before)
		})
	}
}

func leadersPod(t *testing.T) v1.Pod {
	t.Helper()
	node := leadersNode(t)
	pods, err := controllerPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(pods, func(p v1.Pod) bool { return p.Spec.NodeName == node.Name })
	if i < 0 {
		t.Fatalf("no controller manager is on %s", node.Name)
	}
	return pods[i]
}

// leadersNode returns the node on which the leader runs. A pod in the host's network has its node's
// name.
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

// leadsInsteadOf returns an error unless another controller manager leads than before.
func leadsInsteadOf(ctx context.Context, before string) error {
	now, err := leader(ctx)
	if err == nil && (now == "" || now == before) {
		err = fmt.Errorf("the leader is %q", now)
	}
	return err
}

func leader(ctx context.Context) (string, error) {
	lease, err := client.CoordinationV1().Leases(cluster.ProductNamespace).Get(ctx, "hostport-ccm", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return ptr.Deref(lease.Spec.HolderIdentity, ""), nil
}

// nodeWithoutController returns a node on which no controller manager runs.
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

// replicas is how many controller managers the manifests run.
const replicas = 2

// scaleController scales the controller manager, and waits until exactly that many of its pods are
// ready.
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

// controllerPods returns the pods of the controller manager.
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
