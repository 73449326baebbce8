//go:build e2e

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/chaos"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

var (
	chaosSeed     = flag.Uint64("chaos-seed", 1, "seed of TestChaos: the same one chooses the same faults")
	chaosDuration = flag.Duration("chaos-duration", 2*time.Minute, "how long TestChaos injects faults")
	chaosFaults   = flag.String("chaos-faults", "", "faults of TestChaos whose names contain this; empty: all")
)

// In each episode, one or two faults are injected at random, while clients send requests to all published
// addresses and hold connections, and other Services come and go. Then the cluster has to recover.
func TestChaos(t *testing.T) {
	r := newChaos(t)
	t.Logf("seed %d, %s", *chaosSeed, *chaosDuration)
	var episodes []chaos.Episode
	for began := time.Now(); time.Since(began) < *chaosDuration && !t.Failed(); {
		episodes = append(episodes, r.episode(t, len(episodes)+1))
	}
	r.churn.removeAll(t)
	scaleController(t, replicas) // One that was killed may wait for its restart, and later tests need both.
	result := r.clients.stop(episodes)
	for _, beyond := range result.Violations(1, 0) {
		t.Log("beyond what is promised, perhaps as the machine is slow: ", beyond)
	}
	t.Logf("%d requests; outages of published addresses by their length:\n%s", r.clients.requests(), result.Histogram())
	// A UDP request that gets no answer is repeated twice.
	for _, violation := range result.Violations(slowest, slowest*3*attemptTimeout) {
		t.Error(violation)
	}
}

// chaosRun is one run of TestChaos.
type chaosRun struct {
	namespace string
	services  []chaosService
	backends  map[string]pod
	clients   *chaosClients
	churn     *churn
	faults    []chaosFault
	random    *chaos.Shuffle
	// flushed are the nodes whose rules were deleted.
	flushed map[string]bool
	live    map[string]liveConns
}

// chaosService is a Service that exists during the whole test.
type chaosService struct {
	*v1.Service
	port   int
	direct bool
}

func newChaos(t *testing.T) *chaosRun {
	t.Helper()
	needDualStack(t)
	if err := waitForCleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &chaosRun{namespace: newNamespace(t), backends: map[string]pod{}, flushed: map[string]bool{}, live: map[string]liveConns{}}
	for _, node := range cluster.Nodes(cluster.GCE) {
		r.startBackend(t, node.Name)
	}
	r.add(t, "proxied", options.DatapathProxy, v1.ServiceExternalTrafficPolicyCluster)
	r.add(t, "direct", options.DatapathDirect, v1.ServiceExternalTrafficPolicyCluster)
	r.add(t, "local", options.DatapathDirect, v1.ServiceExternalTrafficPolicyLocal)
	r.churn = &churn{namespace: r.namespace}
	for _, f := range allChaosFaults(r) {
		if strings.Contains(f.name, *chaosFaults) {
			r.faults = append(r.faults, f)
		}
	}
	if len(r.faults) == 0 {
		t.Fatalf("no fault's name contains %q", *chaosFaults)
	}
	r.random = chaos.NewShuffle(*chaosSeed, len(r.faults))
	r.wantRecovered(t)
	r.connect(t)
	r.clients = startChaosClients(t, r.namespace, r.services)
	return r
}

// add creates a Service with TCP and UDP in all IP families.
func (r *chaosRun) add(t *testing.T, name string, datapath options.DatapathChoice, policy v1.ServiceExternalTrafficPolicy) {
	t.Helper()
	port := freePort()
	svc := newService(t, r.namespace, name, func(s *v1.Service) {
		withDatapath(datapath)(s)
		withAnnotation(drainSeconds, "3")(s)
		inAllFamilies(s)
		s.Spec.Selector = map[string]string{"app": "web"}
		s.Spec.ExternalTrafficPolicy = policy
	}, bothProtocols(port)...)
	r.services = append(r.services, chaosService{svc, port, datapath == options.DatapathDirect})
}

// startBackend starts a backend on a node that serves for ten seconds after it was asked to end.
func (r *chaosRun) startBackend(t *testing.T, node string) {
	t.Helper()
	spec := backendPod()
	spec.TerminationGracePeriodSeconds = nil
	spec.Containers[0].Args = append(spec.Containers[0].Args, "--delay-shutdown=10")
	r.backends[node] = newPodOf(t, r.namespace, "web", node, spec)
}

// stopBackend ends the backend on a node without a request that fails, so that what fails afterwards does
// not fail for want of an endpoint.
func (r *chaosRun) stopBackend(t *testing.T, node string) {
	t.Helper()
	p := r.backends[node]
	p.remove(t)
	eventually(t, time.Minute, "backend "+p.name+" has ended", func(ctx context.Context) error {
		return isGone(ctx, p.namespace, p.name)
	})
}

// episode injects one or two faults, waits, ends them, and waits until the cluster has recovered.
func (r *chaosRun) episode(t *testing.T, number int) chaos.Episode {
	t.Helper()
	e := chaos.Episode{From: time.Now()}
	faults := r.nextFaults(t)
	var names []string
	var undo []func()
	for _, f := range faults {
		names, e.Limit = append(names, f.name), e.Limit.Plus(f.limit)
		what, end := f.inject(t)
		undo = append(undo, end)
		t.Logf("episode %d: %s: %s", number, f.name, what)
	}
	e.Name = strings.Join(names, " and ")
	r.churn.step(t, r.random.Rand)
	r.hold(faults[0])
	for _, end := range slices.Backward(undo) {
		end()
	}
	r.wantRecovered(t)
	r.wantConnections(t, e)
	e.To = time.Now()
	return e
}

// nextFaults returns a fault, or two that may be injected at the same time.
func (r *chaosRun) nextFaults(t *testing.T) []chaosFault {
	t.Helper()
	if !slices.ContainsFunc(r.faults, chaosFault.isPossible) {
		t.Fatal("none of the chosen faults can be injected any more: choose others, or a shorter duration")
	}
	first := r.faults[r.random.Next()]
	for !first.isPossible() {
		first = r.faults[r.random.Next()]
	}
	second := r.faults[r.random.Rand.IntN(len(r.faults))]
	if first.alone || second.alone || second.name == first.name || r.random.Rand.IntN(2) == 0 {
		return []chaosFault{first}
	}
	return []chaosFault{first, second}
}

// hold waits for a random time, the longest of which is the fault's.
func (r *chaosRun) hold(f chaosFault) {
	longest := max(f.hold, 2*time.Second)
	time.Sleep(time.Second + time.Duration(r.random.Rand.Int64N(int64(longest))))
}

// wantRecovered waits until everything is as desired and every address answers.
func (r *chaosRun) wantRecovered(t *testing.T) {
	t.Helper()
	eventually(t, 3*time.Minute, "the cluster has recovered", func(ctx context.Context) error {
		if err := allNodesReady(ctx); err != nil {
			return err
		}
		if err := r.churn.settled(ctx); err != nil {
			return err
		}
		for _, s := range r.services {
			if err := s.isAsDesired(ctx); err != nil {
				return fmt.Errorf("Service %s: %r", s.Name, err)
			}
		}
		return nil
	})
}

func allNodesReady(ctx context.Context) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if !isNodeReady(&n) {
			return fmt.Errorf("node %s is not Ready", n.Name)
		}
	}
	return nil
}

// isAsDesired returns an error unless a Service has the addresses of all nodes, exactly its objects and
// firewall rules, and answers everywhere.
func (s chaosService) isAsDesired(ctx context.Context) error {
	nodes := cluster.Nodes(cluster.GCE)
	all := addressesOf(nodes, externalIP)
	got, err := addresses(ctx, s.Service)
	if err != nil {
		return err
	}
	if !sameElements(got, all) {
		return fmt.Errorf("it has addresses %v", got)
	}
	names, err := orphansOf(ctx, s.Service)
	if err != nil {
		return err
	}
	kinds := map[string]int{}
	for _, name := range names {
		kind, _, _ := strings.Cut(name, " ")
		kinds[kind]++
	}
	want := map[string]int{"DaemonSet": 1, "ConfigMap": 1, "rule": len(families())}
	if s.direct {
		want = map[string]int{"mirror": 1, "rule": len(families())}
	}
	if fmt.Sprint(kinds) != fmt.Sprint(want) {
		return fmt.Errorf("made for it are %v, want %v", names, want)
	}
	return errors.Join(s.hasServers(ctx), s.answers(ctx, all))
}

// hasServers returns an error unless what serves a Service is complete.
func (s chaosService) hasServers(ctx context.Context) error {
	nodes := cluster.Nodes(cluster.GCE)
	if !s.direct {
		ready, err := proxiesOf(ctx, s.Service)
		if err == nil && len(ready) != len(nodes) {
			err = fmt.Errorf("%d proxies are ready", len(ready))
		}
		return err
	}
	mirror, err := mirrorOf(ctx, s.Service)
	if err != nil {
		return err
	}
	var listed []string
	for _, entry := range mirror.Status.LoadBalancer.Ingress {
		listed = append(listed, entry.IP)
	}
	if !sameElements(listed, addressesOf(nodes, internalIP)) {
		return fmt.Errorf("its mirror lists %v", listed)
	}
	return nil
}

func (s chaosService) answers(ctx context.Context, addresses []string) error {
	for _, address := range addresses {
		for _, p := range protocols {
			if _, err := p.getFrom(cluster.Internet)(ctx, address, s.port); err != nil {
				return fmt.Errorf("%s over %s: %r", address, p.name, err)
			}
		}
	}
	return nil
}

// connectionsPerAddress is how many connections are held open at each address of a Service.
const connectionsPerAddress = 3

// connect opens the connections that are held.
func (r *chaosRun) connect(t *testing.T) {
	t.Helper()
	for _, s := range r.services {
		for _, address := range addressesOf(cluster.Nodes(cluster.GCE), externalIP) {
			r.live[s.Name] = append(r.live[s.Name], openLiveConns(t, connectionsPerAddress, address, s.port)...)
		}
	}
}

// wantConnections checks that no connection ended that should not, and opens all anew if any did.
func (r *chaosRun) wantConnections(t *testing.T, e chaos.Episode) {
	t.Helper()
	ended := 0
	for _, s := range r.services {
		ends := r.live[s.Name].endings(t, time.Now())
		ended += len(ends)
		may := e.Limit.Ends == chaos.AnyConnection || e.Limit.Ends == chaos.ProxiedConnections && !s.direct
		if len(ends) > 0 && !may {
			t.Errorf("%s: %d of %d connections of Service %s ended: %v", e.Name, len(ends), len(r.live[s.Name]), s.Name, causes(ends))
		}
	}
	if ended == 0 {
		return
	}
	t.Logf("%d connections ended", ended)
	for name, conns := range r.live {
		for _, c := range conns {
			c.conn.Close()
		}
		delete(r.live, name)
	}
	r.connect(t)
}
