//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/chaos"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// chaosClients send requests to all addresses of Services, published or not, and watch which are.
type chaosClients struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
	direct  map[string]bool

	mu       sync.Mutex
	attempts map[chaos.Target][]chaos.Attempt
	changes  map[string][]chaos.Change
}

// chaosPeriod is the time between two requests to a target.
const chaosPeriod = 250 * time.Millisecond

func startChaosClients(t *testing.T, namespace string, services []chaosService) *chaosClients {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	c := &chaosClients{cancel: cancel, direct: map[string]bool{}, attempts: map[chaos.Target][]chaos.Attempt{}, changes: map[string][]chaos.Change{}}
	c.watch(t, ctx, namespace)
	for _, s := range services {
		c.direct[s.Name] = s.direct
		for _, address := range addressesOf(cluster.Nodes(cluster.GCE), externalIP) {
			for _, protocol := range []string{"tcp", "udp"} {
				target := chaos.Target{Service: s.Name, Address: address, Protocol: protocol}
				c.running.Go(func() { c.send(ctx, target, s.port) })
			}
		}
	}
	return c
}

// watch records the published addresses of all Services of a namespace.
func (c *chaosClients) watch(t *testing.T, ctx context.Context, namespace string) {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	record := func(object any) {
		svc := object.(*v1.Service)
		change := chaos.Change{At: time.Now()}
		for _, entry := range svc.Status.LoadBalancer.Ingress {
			change.Addresses = append(change.Addresses, entry.IP)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changes[svc.Name] = append(c.changes[svc.Name], change)
	}
	if _, err := factory.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: record, UpdateFunc: func(_, now any) { record(now) },
	}); err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
}

// send sends requests to a target until the test ends.
func (c *chaosClients) send(ctx context.Context, target chaos.Target, port int) {
	for ctx.Err() == nil {
		a := chaos.Attempt{From: time.Now()}
		a.Err = request(ctx, target, port)
		a.Refused = a.Err != nil && !isTimeout(a.Err)
		if ctx.Err() != nil {
			return // It was interrupted.
		}
		c.mu.Lock()
		c.attempts[target] = append(c.attempts[target], a)
		c.mu.Unlock()
		time.Sleep(max(0, chaosPeriod-time.Since(a.From)))
	}
}

func request(ctx context.Context, target chaos.Target, port int) error {
	if target.Protocol == "udp" {
		_, err := askUDPWithRetries(ctx, from(cluster.Internet), target.Address, port, askHostname)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return connectOnce(ctx, target.Address, port)
}

// requests returns how many requests were sent.
func (c *chaosClients) requests() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, attempts := range c.attempts {
		n += len(attempts)
	}
	return n
}

// stop ends the clients and returns what they noticed.
func (c *chaosClients) stop(episodes []chaos.Episode) chaos.Result {
	end := time.Now()
	c.cancel()
	c.running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	result := chaos.Result{Episodes: episodes, Outages: map[int][]chaos.Outage{}, Proxied: func(service string) bool { return !c.direct[service] }}
	for target, attempts := range c.attempts {
		for _, o := range chaos.Outages(target, attempts, c.changes[target.Service], end) {
			i := chaos.EpisodeOf(o, episodes)
			result.Outages[i] = append(result.Outages[i], o)
		}
	}
	return result
}

// churn creates, edits and deletes Services that clients do not use.
type churn struct {
	namespace string
	made      int
	alive     []chaosService
	deleted   []*v1.Service
}

// step creates a Service, and edits or deletes the oldest.
func (c *churn) step(t *testing.T, random *rand.Rand) {
	t.Helper()
	c.made++
	port, direct := freePort(), random.IntN(2) == 0
	svc := newService(t, c.namespace, fmt.Sprint("churn", c.made), func(s *v1.Service) {
		if direct {
			withDatapath(options.DatapathDirect)(s)
		}
		withAnnotation(drainSeconds, "3")(s)
		inAllFamilies(s)
		s.Spec.Selector = map[string]string{"app": "web"}
	}, bothProtocols(port)...)
	c.alive = append(c.alive, chaosService{svc, port, direct})
	switch oldest := &c.alive[0]; {
	case len(c.alive) > 2:
		deleteService(t, oldest.Service)
		c.deleted, c.alive = append(c.deleted, oldest.Service), c.alive[1:]
	case len(c.alive) > 1:
		oldest.port = freePort()
		editService(t, oldest.Service, func(s *v1.Service) { s.Spec.Ports = bothProtocols(oldest.port) })
	}
}

// settled returns an error unless the Services that exist are served, and nothing is left of others.
func (c *churn) settled(ctx context.Context) error {
	for _, svc := range c.deleted {
		_, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("Service %s, deleted, exists (%v)", svc.Name, err)
		}
		if err := hasNoOrphans(ctx, svc); err != nil {
			return fmt.Errorf("Service %s, deleted: %w", svc.Name, err)
		}
	}
	for _, s := range c.alive {
		if err := s.isAsDesired(ctx); err != nil {
			return fmt.Errorf("Service %s: %w", s.Name, err)
		}
	}
	return nil
}

func (c *churn) removeAll(t *testing.T) {
	t.Helper()
	for _, s := range c.alive {
		deleteService(t, s.Service)
		c.deleted = append(c.deleted, s.Service)
	}
	c.alive = nil
	eventually(t, time.Minute, "nothing is left of deleted Services", c.settled)
}

// isGone returns an error unless a pod does not exist.
func isGone(ctx context.Context, namespace, pod string) error {
	_, err := client.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("it exists (%v)", err)
}
