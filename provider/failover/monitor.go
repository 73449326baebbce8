package failover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
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
	"k8s.io/klog/v2"
)

const (
	interval = time.Second
	// patience is how long a node, or the API server, has to answer.
	patience = 700 * time.Millisecond
	// port is that of kube-proxy's health check, made for load balancers. It
	// need not be open: a refusal proves as well that the node lives.
	port = "10256"
)

// Monitor watches the nodes. Its methods may be called at the same time. Make
// it with New.
type Monitor struct {
	nodes  corelisters.NodeLister
	synced cache.InformerSynced
	leases func(ctx context.Context, node string) (string, error)
	dial   func(ctx context.Context, address string) error
	now    func() time.Time
	judge  *judge

	mu   sync.Mutex
	down map[string]string // node: the sentence that says so
	tell func(Verdict)
	// unread are the nodes whose Lease could not be read when it was last tried.
	unread map[string]bool
}

// Verdict is news about a node.
type Verdict struct {
	Node string
	Down bool
	// Message is a sentence for an event.
	Message string
}

// New prepares a monitor of the informer's nodes.
func New(kube kubernetes.Interface, nodes coreinformers.NodeInformer) *Monitor {
	registerMetrics()
	return &Monitor{
		nodes:  nodes.Lister(),
		synced: nodes.Informer().HasSynced,
		leases: func(ctx context.Context, node string) (string, error) { return leaseMark(ctx, kube, node) },
		dial:   dial,
		now:    time.Now,
		judge:  newJudge(),
		down:   map[string]string{},
		tell:   func(Verdict) {},
		unread: map[string]bool{},
	}
}

// Run watches until ctx is done.
func (m *Monitor) Run(ctx context.Context) {
	if cache.WaitForCacheSync(ctx.Done(), m.synced) {
		wait.NonSlidingUntilWithContext(ctx, m.round, interval)
	}
}

// Follow has tell called with every verdict from now on, and at once with those
// in force. tell must not block. A nil Monitor has no verdicts.
func (m *Monitor) Follow(tell func(Verdict)) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell = tell
	for _, node := range slices.Sorted(maps.Keys(m.down)) {
		tell(Verdict{node, true, m.down[node]})
	}
}

// Mask returns the nodes as they are, those that are down as Kubernetes will
// show them in half a minute: not Ready. On a nil Monitor it changes nothing.
func (m *Monitor) Mask(nodes []*v1.Node) []*v1.Node {
	if m == nil {
		return nodes
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	masked := slices.Clone(nodes)
	for i, node := range masked {
		if _, down := m.down[node.Name]; down {
			masked[i] = node.DeepCopy()
			setNotReady(masked[i])
		}
	}
	return masked
}

func setNotReady(node *v1.Node) {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == v1.NodeReady {
			node.Status.Conditions[i].Status = v1.ConditionUnknown
		}
	}
}

// round asks everybody once.
func (m *Monitor) round(ctx context.Context) {
	now := m.now()
	addresses := m.addresses()
	heard := all(ctx, slices.Collect(maps.Keys(addresses)), func(ctx context.Context, node string) (bool, error) {
		return lives(m.dial(ctx, addresses[node])), nil
	})
	look := m.judge.hear(now, heard)
	verdicts := m.judge.decide(now, all(ctx, look, m.lease))
	maps.DeleteFunc(m.unread, func(node string, _ bool) bool { return !slices.Contains(look, node) })
	m.count()
	m.publish(ctx, verdicts)
}

// addresses are those of the nodes that Kubernetes takes for Ready.
func (m *Monitor) addresses() map[string]string {
	nodes, _ := m.nodes.List(labels.Everything()) // From memory; never an error.
	addresses := map[string]string{}
	for _, node := range nodes {
		if ip := internalIP(node); ip != "" && isReady(node) {
			addresses[node.Name] = net.JoinHostPort(ip, port)
		}
	}
	return addresses
}

func internalIP(node *v1.Node) string {
	for _, a := range node.Status.Addresses {
		if a.Type == v1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

func isReady(node *v1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

// publish makes verdicts known, and forgets nodes that the judge has forgotten.
func (m *Monitor) publish(ctx context.Context, verdicts []verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.down, func(node, _ string) bool { return m.judge.nodes[node] == nil })
	for _, v := range verdicts {
		told := Verdict{v.Node, v.Down, v.message()}
		if v.Down {
			m.down[v.Node] = told.Message
		} else {
			delete(m.down, v.Node)
		}
		verdictsTotal.WithLabelValues(map[bool]string{true: "down", false: "back"}[v.Down]).Inc()
		klog.FromContext(ctx).V(2).Info("Verdict on a node", "node", klog.KRef("", v.Node), "down", v.Down, "silent", v.Silent)
		m.tell(told)
	}
}

func (v verdict) message() string {
	if v.Down {
		return fmt.Sprintf("node %s has neither answered for %s nor renewed its Lease meanwhile: its addresses are withdrawn from Services until it renews its Lease, or Kubernetes knows more", v.Node, v.Silent.Round(time.Second))
	}
	return fmt.Sprintf("node %s has renewed its Lease: its addresses may be published again", v.Node)
}

func (m *Monitor) count() {
	counts := map[state]float64{unreached: 0, answering: 0, silent: 0, down: 0}
	for _, r := range m.judge.nodes {
		counts[r.state()]++
	}
	for s, n := range counts {
		nodesGauge.WithLabelValues(string(s)).Set(n)
	}
}

// lease reads the mark of a node's Lease. That it cannot be read is logged once.
func (m *Monitor) lease(ctx context.Context, node string) (string, error) {
	mark, err := m.leases(ctx, node)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil && !m.unread[node] {
		klog.FromContext(ctx).Error(err, "A node does not answer, but only Kubernetes can say whether it died, as its Lease cannot be read", "node", klog.KRef("", node))
	}
	m.unread[node] = err != nil
	return mark, err
}

// all asks about all nodes side by side, and returns what was answered in time.
func all[T any](ctx context.Context, nodes []string, ask func(ctx context.Context, node string) (T, error)) map[string]T {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var mu sync.Mutex
	var asked sync.WaitGroup
	answers := map[string]T{}
	for _, node := range nodes {
		asked.Go(func() {
			answer, err := ask(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				answers[node] = answer
			}
		})
	}
	asked.Wait()
	return answers
}

func dial(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// lives says whether the outcome of a connection attempt proves that the
// machine at the other end lives.
func lives(err error) bool { return err == nil || errors.Is(err, syscall.ECONNREFUSED) }

// leaseMark reads a node's Lease, which its kubelet renews. The time in it is
// by the node's clock, so it is no more than a mark.
func leaseMark(ctx context.Context, kube kubernetes.Interface, node string) (string, error) {
	lease, err := kube.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
	if err != nil || lease.Spec.RenewTime == nil {
		return "", err
	}
	return lease.Spec.RenewTime.String(), nil
}
