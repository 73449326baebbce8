//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/google/go-cmp/cmp"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestRestartedControllerRewritesNothing(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	newBackend(t, ns, "later")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 80, externalIPs()...)
	before, rule := versions(t, svc), ruleNames(t, svc)
	if err := sim.ForgetRequests(t.Context()); err != nil {
		t.Fatal(err)
	}

	killController(t)
	// What comes later is served, so what was there before was looked at.
	later := newService(t, ns, "later", nil, servicePort(v1.ProtocolTCP, 8080))
	wantAddresses(t, later, 2*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "later", 8080, externalIPs()...)

	if diff := cmp.Diff(before, versions(t, svc)); diff != "" {
		t.Errorf("objects were rewritten after a restart (-before +after):\n%s", diff)
	}
	wantNoWrites(t, rule)
	wantOpen(t, getTCP, "web", 80, externalIPs()...)
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

// wantNoWrites checks that nobody asked to change these firewall rules.
func wantNoWrites(t *testing.T, rules []string) {
	t.Helper()
	requests, err := sim.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		reads := r.Verb == "firewalls.get" || r.Verb == "firewalls.list"
		if contains(rules, r.Resource) && !reads {
			t.Errorf("a firewall rule that did not change was written: %s %s", r.Verb, r.Resource)
		}
	}
}

// versions returns what tells whether we wrote a Service and what was made for
// it.
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
		// Its resource version also counts the status, which is not ours: the
		// proxies become available some time after they are ready.
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
		// Its resource version also counts the status, which is the kubelet's.
		found["Pod "+p.Name] = fmt.Sprint(p.UID, p.Labels, p.Annotations)
	}
	return found
}

// killController kills every controller manager without warning, and waits
// until a new one leads.
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

// leadsInsteadOf says whether another one leads than the one before.
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

func TestBrokenAnnotationIsExplainedAndHurtsNobodyElse(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "good")
	newBackend(t, ns, "bad")
	good := newService(t, ns, "good", nil, servicePort(v1.ProtocolTCP, 80))
	bad := newService(t, ns, "bad", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/node-selector": "a in (b"}
	}, servicePort(v1.ProtocolTCP, 8081))
	wantWarning(t, bad, "hostport-ccm.io/node-selector", "a in (b")
	wantAddresses(t, good, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "good", 80, externalIPs()...)
	wantClosed(t, getTCP, 8081, externalIPs()...)

	editService(t, bad, func(s *v1.Service) { delete(s.Annotations, "hostport-ccm.io/node-selector") })
	wantAddresses(t, bad, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "bad", 8081, externalIPs()...)
}

func TestUnknownAnnotationIsNamedWithTheNearestKnownOne(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/max-node": "2"}
	}, servicePort(v1.ProtocolTCP, 80))
	wantWarning(t, svc, "hostport-ccm.io/max-node", "hostport-ccm.io/max-nodes")
}

func TestUnreachableGCEIsExplainedAndRecoveredFrom(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	stopSimulator(t)
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantWarning(t, svc, "firewall", "8080")
	startSimulator(t)
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 80, externalIPs()...)
}

// stopSimulator makes the Compute API unreachable; the edge itself stays as it
// is. It is back when the test ends.
func stopSimulator(t *testing.T) {
	t.Helper()
	if err := gatewayFilter(t, "add table inet outage; add chain inet outage in { type filter hook input priority 0; }; add rule inet outage in iif vpc0 tcp dport 8080 reject with tcp reset"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { startSimulator(t) })
}

func startSimulator(t *testing.T) {
	t.Helper()
	if err := gatewayFilter(t, "add table inet outage; delete table inet outage"); err != nil {
		t.Error(err)
	}
}

func gatewayFilter(t *testing.T, rules string) error {
	_, err := sandbox.Exec(context.WithoutCancel(t.Context()), cluster.Gateway, "nft", rules)
	return err
}

func TestProxyImageThatDoesNotExistIsExplained(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	healthy := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, healthy, time.Minute, externalIPs()...)
	// Proxies that are not available yet count as lost anyway in a rollout.
	eventually(t, time.Minute, "its proxies are available", func(ctx context.Context) error {
		return areAvailable(ctx, healthy, len(externalIPs()))
	})

	// Nobody listens there, so that the pull fails at once.
	const missing = "127.0.0.1:5000/no-such-proxy:v1"
	restore := setProxyImage(t, missing)
	t.Cleanup(restore)
	newBackend(t, ns, "broken")
	svc := newService(t, ns, "broken", nil, servicePort(v1.ProtocolTCP, 8081))
	wantWarning(t, svc, missing, "image")
	if got, err := addresses(t.Context(), svc); err != nil || len(got) > 0 {
		t.Errorf("addresses %v are published although no proxy runs (%v)", got, err)
	}
	// The rollout of the missing image to the healthy Service stops at its first
	// pod; the others go on serving.
	serving, err := addresses(t.Context(), healthy)
	if err != nil || len(serving) < 2 {
		t.Errorf("Service %s has addresses %v (%v)", healthy.Name, serving, err)
	}
	wantOpen(t, getTCP, "web", 80, serving...)
}

// setProxyImage changes the image in the cloud-config of the running controller
// manager. The function it returns puts it back.
func setProxyImage(t *testing.T, image string) (restore func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	name, original := cloudConfig(t)
	var lines []string
	for line := range strings.Lines(original) {
		if key, _, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "proxyImage" {
			line = key + ": " + image + "\n"
		}
		lines = append(lines, line)
	}
	changed := strings.Join(lines, "")
	if changed == original {
		t.Fatalf("no proxyImage in the cloud-config:\n%s", original)
	}
	write := func(content string) error {
		m, err := client.CoreV1().ConfigMaps(cluster.ProductNamespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for key := range m.Data {
			m.Data[key] = content
		}
		_, err = client.CoreV1().ConfigMaps(cluster.ProductNamespace).Update(ctx, m, metav1.UpdateOptions{})
		return errors.Join(err, restartController(ctx))
	}
	if err := write(changed); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := write(original); err != nil {
			t.Errorf("put the cloud-config back: %v", err)
		}
	}
}

func cloudConfig(t *testing.T) (name, content string) {
	t.Helper()
	d, err := client.AppsV1().Deployments(cluster.ProductNamespace).Get(t.Context(), "hostport-ccm", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, volume := range d.Spec.Template.Spec.Volumes {
		if volume.ConfigMap == nil {
			continue
		}
		m, err := client.CoreV1().ConfigMaps(d.Namespace).Get(t.Context(), volume.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, content := range m.Data {
			return m.Name, content
		}
	}
	t.Fatal("the controller manager has no cloud-config")
	return "", ""
}

func restartController(ctx context.Context) error {
	if _, err := sandbox.Kubectl(ctx, "-n", cluster.ProductNamespace, "rollout", "restart", cluster.ProductDeployment); err != nil {
		return err
	}
	_, err := sandbox.Kubectl(ctx, "-n", cluster.ProductNamespace, "rollout", "status", cluster.ProductDeployment, "--timeout=120s")
	return err
}
