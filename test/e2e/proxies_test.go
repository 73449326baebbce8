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

	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// proxy is a proxy pod that is not being stopped.
type proxy struct {
	name, uid, node, ip string
	// ips are its addresses of all families.
	ips      []string
	health   int
	restarts int32
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
			p := proxy{
				name: pod.Name, uid: string(pod.UID), node: pod.Spec.NodeName, ip: pod.Status.PodIP,
				health:   pod.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.IntValue(),
				restarts: pod.Status.ContainerStatuses[0].RestartCount,
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

func proxies(t *testing.T, svc *v1.Service) []proxy {
	t.Helper()
	all, err := proxiesOf(t.Context(), svc)
	if err != nil || len(all) == 0 {
		t.Fatalf("Service %s has %d ready proxies: %v", svc.Name, len(all), err)
	}
	return all
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

// stayed checks that proxies that a Service had are as they were.
func stayed(t *testing.T, svc *v1.Service, before []proxy) {
	t.Helper()
	now := proxies(t, svc)
	for _, old := range before {
		i := slices.IndexFunc(now, func(p proxy) bool { return p.name == old.name })
		if i < 0 {
			t.Errorf("proxy %s on %s is gone", old.name, old.node)
		} else if diff := cmp.Diff(old, now[i], cmp.AllowUnexported(proxy{})); diff != "" {
			t.Errorf("proxy %s is another (-before +after):\n%s", old.name, diff)
		}
	}
}

// areAvailable says whether n proxies of a Service have been ready for as long
// as a rollout minds.
func areAvailable(ctx context.Context, svc *v1.Service, n int) error {
	sets, err := client.AppsV1().DaemonSets(cluster.ProductNamespace).List(ctx, ownedBy(svc))
	if err != nil {
		return err
	}
	available := 0
	for _, set := range sets.Items {
		available += int(set.Status.NumberAvailable)
	}
	if available != n {
		return fmt.Errorf("%d are", available)
	}
	return nil
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

func deletePod(t *testing.T, p proxy) {
	t.Helper()
	if err := client.CoreV1().Pods(cluster.ProductNamespace).Delete(t.Context(), p.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// get asks a path of the proxy's health endpoint, from its node.
func (p proxy) get(ctx context.Context, port int, path string) (status int, body string, err error) {
	return httpGet(ctx, shortly, from(p.node), p.ip, port, path)
}

func (p proxy) readyz(ctx context.Context) (int, error) {
	status, _, err := p.get(ctx, p.health, "/readyz")
	return status, err
}

// dialledByItsNode is a getter that bypasses everything before the pod.
func (p proxy) dialledByItsNode(ctx context.Context, _ string, port int) (string, error) {
	_, body, err := p.get(ctx, port, "/hostname")
	return body, err
}

// metrics returns the proxy's metrics by name and labels.
func (p proxy) metrics(ctx context.Context) (map[string]int, error) {
	_, body, err := p.get(ctx, p.health, "/metrics")
	values := map[string]int{}
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(value); err == nil {
			values[name] = n
		}
	}
	return values, err
}

func (p proxy) metric(t *testing.T, name string) int {
	t.Helper()
	var values map[string]int
	eventually(t, 30*time.Second, "proxy "+p.name+" tells its metrics", func(ctx context.Context) (err error) {
		values, err = p.metrics(ctx)
		return err
	})
	return values[name]
}

// pid finds the proxy's process on this machine by its cgroup, which is named
// after the pod.
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

// inNamespace runs a program of this machine in the pod's network namespace.
func (p proxy) inNamespace(ctx context.Context, argv ...string) (string, error) {
	pid, err := p.pid()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"-t", pid, "-n"}, argv...)...).CombinedOutput()
	return string(out), err
}

// resident returns the process's resident memory in KiB.
func (p proxy) resident(t *testing.T) int {
	t.Helper()
	pid, err := p.pid()
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// readyAfter is the time from the container's start to the pod's being Ready, as
// the API tells it, in whole seconds.
func (p proxy) readyAfter(t *testing.T) time.Duration {
	t.Helper()
	pod, err := client.CoreV1().Pods(cluster.ProductNamespace).Get(t.Context(), p.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return trueSince(t, *pod, v1.PodReady).Sub(pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time)
}

// trueSince returns since when a condition of a pod is true.
func trueSince(t *testing.T, pod v1.Pod, kind v1.PodConditionType) time.Time {
	t.Helper()
	i := slices.IndexFunc(pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == kind && c.Status == v1.ConditionTrue })
	if i < 0 {
		t.Fatalf("pod %s is not %s", pod.Name, kind)
	}
	return pod.Status.Conditions[i].LastTransitionTime.Time
}

// slowestStep returns the longest time that a Service's proxy that is not one of
// those before took to get its node, from its DaemonSet's creation, or to be
// Ready from then on.
func slowestStep(t *testing.T, svc *v1.Service, before []proxy) (slowest time.Duration) {
	t.Helper()
	sets, err := client.AppsV1().DaemonSets(cluster.ProductNamespace).List(t.Context(), ownedBy(svc))
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(t.Context(), ownedBy(svc))
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range sets.Items {
		for _, pod := range pods.Items {
			old := slices.ContainsFunc(before, func(p proxy) bool { return p.name == pod.Name })
			if !old && metav1.IsControlledBy(&pod, &set) {
				scheduled := trueSince(t, pod, v1.PodScheduled)
				slowest = max(slowest, scheduled.Sub(set.CreationTimestamp.Time), trueSince(t, pod, v1.PodReady).Sub(scheduled))
			}
		}
	}
	return slowest
}

// published watches that every published address serves.
type published struct {
	end   context.CancelFunc
	ended chan struct{}
	// fewest addresses that were published at a time, asked requests made, and
	// what was wrong.
	fewest, asked int
	wrong         []string
}

// watchPublished asks all published addresses, again and again, until stop. One
// that does not answer is wrong if it was still published afterwards.
func watchPublished(t *testing.T, svc *v1.Service, port int) *published {
	ctx, cancel := context.WithCancel(t.Context())
	w := &published{end: cancel, ended: make(chan struct{}), fewest: 1 << 30}
	t.Cleanup(cancel)
	go func() {
		defer close(w.ended)
		for ctx.Err() == nil {
			w.look(ctx, svc, port)
		}
	}()
	return w
}

func (w *published) look(ctx context.Context, svc *v1.Service, port int) {
	before, err := addresses(ctx, svc)
	if err != nil {
		return // that of the API server is not what is watched
	}
	w.fewest = min(w.fewest, len(before))
	for _, address := range before {
		err := w.ask(ctx, address, port)
		w.asked++
		if err == nil || ctx.Err() != nil {
			continue
		}
		if after, e := addresses(ctx, svc); e == nil && contains(after, address) {
			w.wrong = append(w.wrong, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), address, err))
		}
	}
}

// ask has the patience of a client on a machine that is busy.
func (w *published) ask(ctx context.Context, address string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return connectOnce(ctx, address, port)
}

// stop ends the watch, reports what was wrong, and returns the fewest addresses
// that were published at a time.
func (w *published) stop(t *testing.T) int {
	t.Helper()
	w.end()
	<-w.ended
	t.Logf("%d requests to published addresses, %d without an answer, never fewer than %d published", w.asked, len(w.wrong), w.fewest)
	if len(w.wrong) > 0 {
		t.Errorf("published addresses did not serve:\n%s", strings.Join(w.wrong, "\n"))
	}
	return w.fewest
}

// wantAllKept stops the watch of a Service that got more proxies beside those
// before, one on each node, and checks that no address left meanwhile. One may
// where a proxy takes long to start: half as long as is too long, which leaves
// time for the news to get about.
func (w *published) wantAllKept(t *testing.T, svc *v1.Service, before []proxy) {
	t.Helper()
	fewest := w.stop(t)
	if fewest >= len(externalIPs()) {
		return
	}
	wantProxies(t, svc, len(before)+len(externalIPs()))
	complain := t.Errorf
	slowest := slowestStep(t, svc, before)
	if slowest >= publish.NewSetTimeout/2 {
		complain = t.Logf
	}
	complain("only %d addresses of Service %s were published at a time; the slowest step of a proxy's start took %s", fewest, svc.Name, slowest)
}
