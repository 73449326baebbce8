//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// proxy is a proxy pod that is ready and not being deleted.
type proxy struct {
	name, uid, node, ip string
	// ips are its addresses in all IP families.
	ips []string
	// health and metricsPort are the ports of its endpoints.
	health, metricsPort int
	// token is what requests for its health have to bring.
	token    string
	restarts int32
}

// wantProxies waits until a Service has that many ready proxies.
func wantProxies(t *testing.T, svc *v1.Service, n int) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("Service %s has %d ready proxies", svc.Name, n), func(ctx context.Context) error {
		now, err := proxiesOf(ctx, svc)
		if err == nil && len(now) != n {
			err = fmt.Errorf("there are %d", len(now))
		}
		return err
	})
}

// wantUnchanged checks that proxies of a Service were neither replaced nor restarted.
func wantUnchanged(t *testing.T, svc *v1.Service, before []proxy) {
	t.Helper()
	now := proxies(t, svc)
	for _, old := range before {
		i := slices.IndexFunc(now, func(p proxy) bool { return p.name == old.name })
		if i < 0 {
			t.Errorf("proxy %s on %s is gone", old.name, old.node)
		} else if diff := cmp.Diff(old, now[i], cmp.AllowUnexported(proxy{})); diff != "" {
			t.Errorf("proxy %s has changed (-before +after):\n%s", old.name, diff)
		}
	}
}

func proxyOn(t *testing.T, svc *v1.Service, node string) proxy {
	t.Helper()
	for _, p := range proxies(t, svc) {
		if p.node == node {
			return p
		}
	}
	t.Fatalf("Service %s has no ready proxy on %s", svc.Name, node)
	return proxy{}
}

func proxies(t *testing.T, svc *v1.Service) []proxy {
	t.Helper()
	all, err := proxiesOf(t.Context(), svc)
	if err != nil || len(all) == 0 {
		t.Fatalf("Service %s has %d ready proxies: %v", svc.Name, len(all), err)
	}
	return all
}

// proxiesOf returns the ready proxies of a Service, by node.
func proxiesOf(ctx context.Context, svc *v1.Service) ([]proxy, error) {
	pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, ownedBy(svc))
	if err != nil {
		return nil, err
	}
	var all []proxy
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil && isReady(pod) {
			probe := pod.Spec.Containers[0].ReadinessProbe.HTTPGet
			p := proxy{
				name: pod.Name, uid: string(pod.UID), node: pod.Spec.NodeName, ip: pod.Status.PodIP,
				health: probe.Port.IntValue(), token: probe.HTTPHeaders[0].Value,
				restarts: pod.Status.ContainerStatuses[0].RestartCount,
			}
			for _, arg := range pod.Spec.Containers[0].Args {
				if port, found := strings.CutPrefix(arg, "--metrics-address=:"); found {
					if p.metricsPort, err = strconv.Atoi(port); err != nil {
						return nil, err
					}
				}
			}
			for _, ip := range pod.Status.PodIPs {
				p.ips = append(p.ips, ip.IP)
			}
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b proxy) int { return strings.Compare(a.node, b.node) })
	return all, nil
}

// haveAvailable returns an error unless n proxies of a Service are available: ready for
// minReadySeconds.
func haveAvailable(ctx context.Context, svc *v1.Service, n int) error {
	sets, err := client.AppsV1().DaemonSets(cluster.ProductNamespace).List(ctx, ownedBy(svc))
	if err != nil {
		return err
	}
	available := 0
	for _, set := range sets.Items {
		available += int(set.Status.NumberAvailable)
	}
	if available != n {
		return fmt.Errorf("%d proxies are available, want %d", available, n)
	}
	return nil
}

func deletePod(t *testing.T, p proxy) {
	t.Helper()
	if err := client.CoreV1().Pods(cluster.ProductNamespace).Delete(t.Context(), p.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (p proxy) readyz(ctx context.Context) (int, error) {
	status, _, err := httpGet(ctx, attemptTimeout, from(p.node), p.ip, p.health, "/readyz", "Authorization", p.token)
	return status, err
}

// getFromNode is a getter that asks the proxy at its pod's address, from its node.
func (p proxy) getFromNode(ctx context.Context, _ string, port int) (string, error) {
	_, body, err := p.get(ctx, port, "/hostname")
	return body, err
}

func (p proxy) metric(t *testing.T, name string) int {
	t.Helper()
	var values map[string]int
	eventually(t, 30*time.Second, "proxy "+p.name+" returns its metrics", func(ctx context.Context) (err error) {
		values, err = p.metrics(ctx)
		return err
	})
	return values[name]
}

// metrics returns the proxy's metrics by name and labels.
func (p proxy) metrics(ctx context.Context) (map[string]int, error) {
	_, body, err := p.get(ctx, p.metricsPort, "/metrics")
	values := map[string]int{}
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(value); err == nil {
			values[name] = n
		}
	}
	return values, err
}

// get requests a path of the pod, from its node.
func (p proxy) get(ctx context.Context, port int, path string) (status int, body string, err error) {
	return httpGet(ctx, attemptTimeout, from(p.node), p.ip, port, path)
}

// inNamespace runs a program of the machine in the pod's network namespace.
func (p proxy) inNamespace(ctx context.Context, argv ...string) (string, error) {
	pid, err := p.pid()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"-t", pid, "-n"}, argv...)...).CombinedOutput()
	return string(out), err
}

// processFile returns the content of a file of the process in /proc.
func (p proxy) processFile(t *testing.T, name string) string {
	t.Helper()
	pid, err := p.pid()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join("/proc", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// resident returns the process's resident memory in KiB.
func (p proxy) resident(t *testing.T) int {
	t.Helper()
	_, rest, _ := strings.Cut(p.processFile(t, "status"), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// pid finds the proxy's process on the machine by its cgroup, which has the pod's UID in its name.
func (p proxy) pid() (string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte(p.uid)) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err == nil && bytes.Contains(name, []byte("hostport-nodeproxy")) {
			return filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", fmt.Errorf("no process of pod %s is found", p.name)
}

// readyAfter returns the time from the container's start until the pod was Ready. The API has whole
// seconds.
func (p proxy) readyAfter(t *testing.T) time.Duration {
	t.Helper()
	pod, err := client.CoreV1().Pods(cluster.ProductNamespace).Get(t.Context(), p.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return trueSince(t, *pod, v1.PodReady).Sub(pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time)
}
