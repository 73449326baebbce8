package failover

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	nodeutil "k8s.io/component-helpers/node/util"
	"k8s.io/klog/v2"
)

const (
	interval = time.Second
	// timeout is how long a node, or the API server, has to answer.
	timeout = 700 * time.Millisecond
	// port is the port of kube-proxy's health check for load balancers. It need not be open: a
	// refused connection proves as well that the node is alive.
	port = "10256"
)

// Monitor probes the nodes and detects those that are down. Make it with New. A nil *Monitor
// detects nothing: to it no node is ever down. All methods are safe for concurrent use.
type Monitor struct {
	kube   kubernetes.Interface
	nodes  corelisters.NodeLister
	synced cache.InformerSynced
	dial   func(ctx context.Context, address string) error
	now    func() time.Time

	// These two belong to the goroutine of Run.
	detector *detector
	// unreadable are the nodes whose Lease could not be read in the last round.
	unreadable map[string]bool

	// generation counts the changes of down.
	generation atomic.Uint64

	mu     sync.Mutex
	down   map[string]Transition
	notify func(Transition)
}

// New returns a monitor of the informer's nodes. It reads their Leases with kube.
func New(kube kubernetes.Interface, nodes coreinformers.NodeInformer) *Monitor {
	registerMetrics()
	return &Monitor{
		kube:     kube,
		nodes:    nodes.Lister(),
		synced:   nodes.Informer().HasSynced,
		dial:     dial,
		now:      time.Now,
		detector: newDetector(),
		down:     map[string]Transition{},
		notify:   func(Transition) {},
	}
}

// Run probes the nodes once a second until ctx is done.
func (m *Monitor) Run(ctx context.Context) {
	if cache.WaitForCacheSync(ctx.Done(), m.synced) {
		wait.NonSlidingUntilWithContext(ctx, m.round, interval)
	}
}

// Subscribe calls notify at once with the transition of each node that is down, and then with every
// further transition. notify must not block. There is one subscriber: a later one replaces it.
func (m *Monitor) Subscribe(notify func(Transition)) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notify = notify
	for _, node := range slices.Sorted(maps.Keys(m.down)) {
		notify(m.down[node])
	}
}

// OverlayNotReady returns the nodes with copies in place of those that are down. In a copy the
// Ready condition is Unknown, as Kubernetes sets it half a minute later.
func (m *Monitor) OverlayNotReady(nodes []*v1.Node) []*v1.Node {
	if m == nil {
		return nodes
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	overlaid := slices.Clone(nodes)
	for i, node := range overlaid {
		if _, down := m.down[node.Name]; !down {
			continue
		}
		overlaid[i] = node.DeepCopy()
		if _, ready := nodeutil.GetNodeCondition(&overlaid[i].Status, v1.NodeReady); ready != nil {
			ready.Status = v1.ConditionUnknown
		}
	}
	return overlaid
}

// Generation returns a counter that changes whenever OverlayNotReady may return other nodes: with
// every transition, before it is notified, and when Kubernetes itself knows that a node is down.
func (m *Monitor) Generation() uint64 {
	if m == nil {
		return 0
	}
	return m.generation.Load()
}

// round observes all Ready nodes once and publishes what the detector decides.
func (m *Monitor) round(ctx context.Context) {
	now, addresses := m.now(), m.addresses()
	answers := forEach(ctx, slices.Collect(maps.Keys(addresses)), func(ctx context.Context, node string) answer {
		return answerOf(m.dial(ctx, addresses[node]))
	})
	leases := m.readLeases(ctx, m.detector.observeProbes(now, answers))
	transitions := m.detector.observeLeases(now, leases)

	counts := map[state]float64{unreached: 0, answering: 0, unresponsive: 0, down: 0}
	for _, o := range m.detector.nodes {
		counts[o.state()]++
	}
	for s, n := range counts {
		nodesGauge.WithLabelValues(string(s)).Set(n)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.down)
	maps.DeleteFunc(m.down, func(node string, _ Transition) bool { return m.detector.nodes[node] == nil })
	if len(m.down) < before {
		m.generation.Add(1)
	}
	for _, t := range transitions {
		to := "down"
		if t.Down {
			m.down[t.Node] = t
		} else {
			to = "up"
			delete(m.down, t.Node)
		}
		m.generation.Add(1)
		transitionsTotal.WithLabelValues(to).Inc()
		klog.FromContext(ctx).V(2).Info("Node went "+to, "node", klog.KRef("", t.Node), "unanswered", t.Unanswered)
		m.notify(t)
	}
}

// addresses returns the probe addresses of the Ready nodes, by the nodes' names.
func (m *Monitor) addresses() map[string]string {
	nodes, _ := m.nodes.List(labels.Everything()) // A lister returns no error.
	addresses := map[string]string{}
	for _, node := range nodes {
		i := slices.IndexFunc(node.Status.Addresses, func(a v1.NodeAddress) bool { return a.Type == v1.NodeInternalIP })
		if i >= 0 && isReady(node) {
			addresses[node.Name] = net.JoinHostPort(node.Status.Addresses[i].Address, port)
		}
	}
	return addresses
}

func isReady(node *v1.Node) bool {
	_, ready := nodeutil.GetNodeCondition(&node.Status, v1.NodeReady)
	return ready != nil && ready.Status == v1.ConditionTrue
}

// readLeases returns the renewal times of the nodes' Leases, as far as they can be read. They are
// by the nodes' clocks, so they can only be compared with one another. The first of several
// failures in a row is logged.
func (m *Monitor) readLeases(ctx context.Context, nodes []string) map[string]string {
	type result struct {
		renewTime string
		err       error
	}
	results := forEach(ctx, nodes, func(ctx context.Context, node string) result {
		lease, err := m.kube.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
		if err != nil || lease.Spec.RenewTime == nil {
			return result{err: err}
		}
		return result{renewTime: lease.Spec.RenewTime.String()}
	})
	leases, unreadable := map[string]string{}, map[string]bool{}
	for node, r := range results {
		if r.err == nil {
			leases[node] = r.renewTime
			continue
		}
		unreadable[node] = true
		if !m.unreadable[node] {
			klog.FromContext(ctx).Error(r.err, "A node does not answer and its Lease cannot be read; until it can, the node leaves Services only when Kubernetes sets it NotReady", "node", klog.KRef("", node))
		}
	}
	m.unreadable = unreadable
	return leases
}

// forEach calls observe for all nodes in parallel, with a context that ends after timeout, and
// returns the results by node.
func forEach[T any](ctx context.Context, nodes []string, observe func(ctx context.Context, node string) T) map[string]T {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var mu sync.Mutex
	var running sync.WaitGroup
	results := map[string]T{}
	for _, node := range nodes {
		running.Go(func() {
			result := observe(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			results[node] = result
		})
	}
	running.Wait()
	return results
}

func dial(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// answerOf returns what the outcome of a connection attempt says of the machine.
func answerOf(err error) answer {
	switch {
	case err == nil:
		return accepted
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	}
	return noAnswer
}
