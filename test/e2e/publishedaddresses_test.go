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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// published watches whether all published addresses of a Service serve.
type published struct {
	end   context.CancelFunc
	ended chan struct{}
	// fewest is the lowest number of published addresses, requests the number of requests, and
	// failures describes those that failed.
	fewest, requests int
	failures         []string
}

// watchPublished sends requests to all published addresses repeatedly until stop. A request without
// an answer is a failure if its address is still published afterwards.
func watchPublished(t *testing.T, svc *v1.Service, port int) *published {
	ctx, cancel := context.WithCancel(t.Context())
	w := &published{end: cancel, ended: make(chan struct{}), fewest: 1 << 30}
	t.Cleanup(cancel)
	go func() {
		defer close(w.ended)
		for ctx.Err() == nil {
			w.check(ctx, svc, port)
		}
	}()
	return w
}

func (w *published) check(ctx context.Context, svc *v1.Service, port int) {
	before, err := addresses(ctx, svc)
	if err != nil {
		return // The API server is not what is tested.
	}
	w.fewest = min(w.fewest, len(before))
	for _, address := range before {
		err := w.ask(ctx, address, port)
		w.requests++
		if err == nil || ctx.Err() != nil {
			continue
		}
		if after, e := addresses(ctx, svc); e == nil && slices.Contains(after, address) {
			w.failures = append(w.failures, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), address, err))
		}
	}
}

// ask makes one request with a time limit for a busy machine.
func (w *published) ask(ctx context.Context, address string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return connectOnce(ctx, address, port)
}

// wantAllKept stops the watch of a Service that got another proxy on each node, and checks that no
// address was withdrawn meanwhile, unless a proxy started slowly.
func (w *published) wantAllKept(t *testing.T, svc *v1.Service, before []proxy) {
	t.Helper()
	fewest := w.stop(t)
	if fewest >= len(externalIPs()) {
		return
	}
	wantProxies(t, svc, len(before)+len(externalIPs()))
	unlessSlow(t, svc, before, fmt.Sprintf("only %d addresses of Service %s were published at a time", fewest, svc.Name))
}

// unlessSlow reports that a Service has not kept its addresses while it got new proxies. It fails the
// test unless one of these started slowly: a step of its start took half of publish.NewSetTimeout or
// more, as the other half may pass until the controller has seen it.
func unlessSlow(t *testing.T, svc *v1.Service, before []proxy, what string) {
	t.Helper()
	report, slowest := t.Errorf, slowestStep(t, svc, before)
	if slowest >= publish.NewSetTimeout/2 {
		report = t.Logf
	}
	report("%s; the slowest step of a proxy's start took %s", what, slowest)
}

// stop ends the watch, fails the test if requests failed, and returns the lowest number of
// published addresses.
func (w *published) stop(t *testing.T) int {
	t.Helper()
	w.end()
	<-w.ended
	t.Logf("%d requests to published addresses, %d without an answer, never fewer than %d published", w.requests, len(w.failures), w.fewest)
	if len(w.failures) > 0 {
		t.Errorf("published addresses did not serve:\n%s", strings.Join(w.failures, "\n"))
	}
	return w.fewest
}

// slowestStep returns the longest time that a new proxy of a Service took from its DaemonSet's
// creation until it was scheduled, or from then until it was Ready.
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

// trueSince returns the time at which a condition of a pod became true.
func trueSince(t *testing.T, pod v1.Pod, kind v1.PodConditionType) time.Time {
	t.Helper()
	i := slices.IndexFunc(pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == kind && c.Status == v1.ConditionTrue })
	if i < 0 {
		t.Fatalf("pod %s is not %s", pod.Name, kind)
	}
	return pod.Status.Conditions[i].LastTransitionTime.Time
}
