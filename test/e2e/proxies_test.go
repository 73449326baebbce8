//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestChangesReachRunningProxiesWithoutReplacingThem(t *testing.T) {
	t.Parallel()
	svc, port := newWeb(t)
	before := proxies(t, svc)

	fromNode := before[0]
	wantOpen(t, fromNode.getFromNode, "web", port, fromNode.ip)
	var worst, sum time.Duration
	const changes = 10
	for i := range changes {
		took := timeOfChange(t, svc, before, func(s *v1.Service) {
			withAnnotation(drainSeconds, fmt.Sprint(i))(s)
			s.Spec.LoadBalancerSourceRanges = []string{cluster.InternetIP + "/32", fmt.Sprintf("192.0.2.%d/32", i)}
		})
		worst, sum = max(worst, took), sum+took
	}
	t.Logf("%d changes of source ranges and drain time reached all %d proxies after %.2fs on average, %.2fs at most",
		changes, len(before), (sum / changes).Seconds(), worst.Seconds())
	// The firewall refuses nodes too, so this asks the proxy without it.
	wantClosed(t, fromNode.getFromNode, port, fromNode.ip)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	if diff := cmp.Diff(before, proxies(t, svc), cmp.AllowUnexported(proxy{})); diff != "" {
		t.Errorf("proxies were replaced or restarted (-before +after):\n%s", diff)
	}
}

// timeOfChange edits a Service and returns how long it takes until every proxy has read its new
// config and programmed it.
func timeOfChange(t *testing.T, svc *v1.Service, all []proxy, change func(*v1.Service)) time.Duration {
	t.Helper()
	generations := map[string]int{}
	for _, p := range all {
		generations[p.name] = p.metric(t, "hostport_nodeproxy_config_generation")
	}
	editService(t, svc, change)
	began := time.Now()
	// Well below the minute that a kubelet takes to refresh a mounted ConfigMap.
	eventually(t, 30*time.Second, "the change is in all proxies", func(ctx context.Context) error {
		for _, p := range all {
			metrics, err := p.metrics(ctx)
			if err != nil {
				return err
			}
			if metrics["hostport_nodeproxy_config_generation"] == generations[p.name] || metrics["hostport_nodeproxy_ready"] != 1 {
				return fmt.Errorf("proxy %s does not have it", p.name)
			}
		}
		return nil
	})
	return time.Since(began)
}

func TestDatapathFlushedRulesAreRepaired(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", inAllFamilies, servicePort(v1.ProtocolTCP, port))
	all := addressesOf(cluster.Nodes(cluster.GCE), externalIP)
	wantAddresses(t, svc, time.Minute, all...)
	wantOpen(t, getTCP, "web", port, all...)
	p := proxies(t, svc)[0]
	for _, family := range families() {
		for _, table := range []string{"nat", "filter"} {
			saw := false
			// The proxy is not ready for a fraction of a second, which the check may miss.
			for tries := 0; tries < 5 && !saw; tries++ {
				saw = flushRules(t, p, family, table)
			}
			if !saw {
				t.Errorf("proxy %s was never seen not ready after table %s of %s was flushed", p.name, table, family)
			}
			wantOpen(t, getTCP, "web", port, all...)
		}
	}
}

// flushRules removes a proxy's rules in a table, waits until they are repaired, and reports whether
// the proxy was seen not ready meanwhile.
func flushRules(t *testing.T, p proxy, family v1.IPFamily, table string) (sawNotReady bool) {
	t.Helper()
	repairs := fmt.Sprintf("hostport_nodeproxy_rule_repairs_total{family=%q}", family)
	program := map[v1.IPFamily]string{v1.IPv4Protocol: "iptables-nft", v1.IPv6Protocol: "ip6tables-nft"}[family]
	before := p.metric(t, repairs)
	if out, err := p.inNamespace(t.Context(), program, "-t", table, "-F"); err != nil {
		t.Fatalf("flush table %s: %v: %s", table, err, out)
	}
	eventually(t, 30*time.Second, "table "+table+" of "+string(family)+" is repaired", func(ctx context.Context) error {
		for {
			metrics, err := p.metrics(ctx)
			if err != nil {
				return err
			}
			status, err := p.readyz(ctx)
			if err != nil {
				return err
			}
			sawNotReady = sawNotReady || status == http.StatusServiceUnavailable
			if metrics[repairs] != before && status == http.StatusOK {
				return nil
			}
		}
	})
	return sawNotReady
}

func TestHangingProxyIsRestartedAndLosesNoConnection(t *testing.T) {
	t.Parallel()
	svc, port := newWeb(t)
	node := cluster.Nodes(cluster.GCE)[0]
	live := openLiveConns(t, 50, node.ExternalIP, port)
	p := proxyOn(t, svc, node.Name)
	pid, err := p.pid()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "kill", "-STOP", pid).CombinedOutput(); err != nil {
		t.Fatalf("stopping the process: %v: %s", err, out)
	}
	wantAddresses(t, svc, time.Minute, externalIPs(node.Name)...)
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
	again := proxyOn(t, svc, node.Name)
	if again.name != p.name || again.restarts != p.restarts+1 {
		t.Errorf("proxy %s was restarted %d times and is pod %s now, want one restart in the same pod", p.name, again.restarts-p.restarts, again.name)
	}
	live.wantAlive(t)
}

func TestProxiesAreSmallAndReadySoon(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, freePort()), servicePort(v1.ProtocolUDP, freePort()))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	for _, p := range proxies(t, svc) {
		resident := p.resident(t)
		t.Logf("proxy on %s: %d KiB resident, ready %s after its container's start (to the second)", p.node, resident, p.readyAfter(t))
		if resident > 10<<10 {
			t.Errorf("proxy on %s takes %d KiB, want at most 10 MiB", p.node, resident)
		}
	}
}

func TestRolloutGoesNodeByNodeAndPublishesOnlyServingNodes(t *testing.T) {
	t.Parallel()
	ns, port, another := newNamespace(t), freePort(), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	// A port that is added later has its own proxies.
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, another)) })
	wantOpen(t, getTCP, "web", another, externalIPs()...)
	eventually(t, time.Minute, "the proxies count as available", func(ctx context.Context) error {
		return haveAvailable(ctx, svc, 2*len(externalIPs()))
	})
	before := proxies(t, svc)

	first, second := watchPublished(t, svc, port), watchPublished(t, svc, another)
	editService(t, svc, withAnnotation("hostport-ccm.io/tolerations", `[{"key":"other","operator":"Exists"}]`))
	eventually(t, 3*time.Minute, "all proxies are replaced", func(ctx context.Context) error {
		now, err := proxiesOf(ctx, svc)
		if err != nil {
			return err
		}
		replaced := len(now) == len(before) && !slices.ContainsFunc(now, func(p proxy) bool {
			return slices.ContainsFunc(before, func(old proxy) bool { return old.name == p.name })
		})
		if !replaced {
			return fmt.Errorf("not all are")
		}
		return nil
	})
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	for _, watch := range []*published{first, second} {
		if fewest := watch.stop(t); fewest < len(externalIPs())-1 {
			t.Errorf("only %d addresses were published at a time, want one to be missing at most", fewest)
		}
	}
}

func TestDrainedNodeServesWhilePublished(t *testing.T) {
	svc, port := newWeb(t)
	node := nodeWithoutController(t)
	watch := watchPublished(t, svc, port)
	t.Cleanup(func() {
		if _, err := sandbox.Kubectl(context.WithoutCancel(t.Context()), "uncordon", node.Name); err != nil {
			t.Error(err)
		}
	})
	// The backends are not drained: they end without a grace period, and requests to them would
	// fail.
	if out, err := sandbox.Kubectl(t.Context(), "drain", node.Name, "--pod-selector=app!=web", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=100s"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p := proxyOn(t, svc, node.Name)
	deletePod(t, p)
	wantAddresses(t, svc, time.Minute, externalIPs(node.Name)...)
	eventually(t, time.Minute, "the proxy has drained", func(ctx context.Context) error {
		_, err := client.CoreV1().Pods(cluster.ProductNamespace).Get(ctx, p.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is still there (%v)", err)
	})
	watch.stop(t)
}

// An evicted pod keeps its object, with phase Failed, until the DaemonSet controller replaces it. A
// finalizer makes it stay.
func TestAProxyThatHasEndedIsReplacedAndHoldsNothingUp(t *testing.T) {
	t.Parallel()
	svc, port := newWeb(t)
	p := proxies(t, svc)[0]
	pods := client.CoreV1().Pods(cluster.ProductNamespace)
	setFinalizers := func(list string) {
		patch := []byte(`{"metadata":{"finalizers":` + list + `}}`)
		if _, err := pods.Patch(context.WithoutCancel(t.Context()), p.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	setFinalizers(`["example.com/e2e"]`)
	released := false
	t.Cleanup(func() {
		if !released {
			setFinalizers("null")
		}
	})
	failed := []byte(`{"status":{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory."}}`)
	if _, err := pods.Patch(t.Context(), p.name, types.MergePatchType, failed, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "another proxy is ready on "+p.node, func(ctx context.Context) error {
		now, err := proxiesOf(ctx, svc)
		if err == nil && !slices.ContainsFunc(now, func(n proxy) bool { return n.node == p.node && n.uid != p.uid }) {
			err = fmt.Errorf("there are %v", now)
		}
		return err
	})
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	deleteService(t, svc)
	eventually(t, time.Minute, "the Service is gone", func(ctx context.Context) error {
		_, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is still there (%w)", err)
	})
	setFinalizers("null")
	released = true
}
