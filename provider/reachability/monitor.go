package reachability

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/proxyclient"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

const (
	interval = time.Second
	// maxChecks is how many proxies are checked in a second in the whole cluster. Each check is a
	// request to the proxy and at most four connections: two IP families, two protocols.
	maxChecks = 10
)

// Cluster is what a Monitor sees and does in the cluster.
type Cluster struct {
	// Proxies returns all proxies in any state.
	Proxies func() []*v1.Pod
	// Service and Node return the object of a name, or nil.
	Service func(types.NamespacedName) *v1.Service
	Node    func(name string) *v1.Node
	// Direct reports whether kube-proxy serves a Service, which takes packets away from its proxies.
	Direct func(*v1.Service) bool
	// Delete deletes a proxy; its DaemonSet makes another one.
	Delete func(context.Context, *v1.Pod) error
	// Enqueue makes the service controller ensure a Service again.
	Enqueue func(types.NamespacedName)
}

// prober asks proxies and connects to nodes.
type prober interface {
	Metrics(ctx context.Context, proxy *v1.Pod) (map[string]*dto.MetricFamily, error)
	NotReady(ctx context.Context, proxy *v1.Pod) (reasons string, err error)
	connect(ctx context.Context, p port, address string) attempt
}

type network struct{ *proxyclient.Client }

func (network) connect(ctx context.Context, p port, address string) attempt {
	return connect(ctx, p, address)
}

// Monitor checks all proxies in turn, and records events on their Services. Make it with New.
type Monitor struct {
	cluster Cluster
	events  *events.Recorder
	prober  prober
	now     func() time.Time

	// These belong to the goroutine of Run.
	detector *detector
	repairs  *repairs
	notReady map[types.UID]*notReadyState
	// warned are the Services that had proxies in the last round.
	warned map[types.UID]*v1.Service

	mu          sync.Mutex
	unreachable map[types.UID]Families
}

// New returns a Monitor. recorder must be for this monitor alone, as it holds the warnings of the last
// round.
func New(cluster Cluster, recorder *events.Recorder) *Monitor {
	registerMetrics()
	return &Monitor{
		cluster: cluster, events: recorder, prober: network{proxyclient.New()}, now: time.Now,
		detector: newDetector(), repairs: newRepairs(), notReady: map[types.UID]*notReadyState{},
	}
}

// Run checks proxies until ctx is done.
func (m *Monitor) Run(ctx context.Context) { wait.NonSlidingUntilWithContext(ctx, m.round, interval) }

// Unreachable returns the IP families in which packets to a node do not reach a Service's proxy there,
// by the nodes' names. It is safe for concurrent use.
func (m *Monitor) Unreachable(svc *v1.Service) map[string][]v1.IPFamily {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unreachable[svc.UID]
}

// target is a proxy with what belongs to it. Lists of targets are sorted by their places.
type target struct {
	place
	pod  *v1.Pod
	svc  *v1.Service
	node *v1.Node
}

// round checks the proxies whose turn it is, decides, and acts.
func (m *Monitor) round(ctx context.Context) {
	now, targets := m.now(), m.targets()
	var ready []target
	var places []place
	for _, t := range targets {
		if publish.Ready(t.pod) {
			ready, places = append(ready, t), append(places, t.place)
			m.detector.at(now, t.place, t.pod.UID)
		}
	}
	m.detector.forget(now)
	var running sync.WaitGroup
	for _, where := range m.detector.nextChecks(now, places, maxChecks) {
		i, _ := slices.BinarySearchFunc(places, where, comparePlaces)
		running.Go(func() { m.check(ctx, ready[i]) })
	}
	running.Go(func() { m.askNotReady(ctx, targets) })
	running.Wait()
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	m.detector.decide(m.now())
	unreachable, before := m.detector.unreachable(), m.unreachable
	m.unreachable = unreachable
	m.mu.Unlock()
	services := servicesOf(targets)
	m.enqueueChanged(ctx, services, before, unreachable)
	m.repair(ctx, targets)
	m.warn(services)
}

// targets returns the proxies that are neither terminating nor of a Service that is gone or that
// kube-proxy serves.
func (m *Monitor) targets() (targets []target) {
	service, node, direct := once(m.cluster.Service), once(m.cluster.Node), once(m.cluster.Direct)
	for _, proxy := range m.cluster.Proxies() {
		svc, node := service(plan.ServiceOf(proxy)), node(proxy.Spec.NodeName)
		if svc == nil || node == nil || proxy.DeletionTimestamp != nil || string(svc.UID) != proxy.Labels[plan.LabelServiceUID] || direct(svc) {
			continue
		}
		targets = append(targets, target{place{svc.UID, node.Name, proxy.Labels[plan.LabelProxySet]}, proxy, svc, node})
	}
	slices.SortFunc(targets, func(a, b target) int { return comparePlaces(a.place, b.place) })
	return targets
}

// once returns a function that calls get once for each argument.
func once[K comparable, V any](get func(K) V) func(K) V {
	known := map[K]V{}
	return func(key K) V {
		value, found := known[key]
		if !found {
			value = get(key)
			known[key] = value
		}
		return value
	}
}

// check reads the counters of a proxy and connects to the ports that need it.
func (m *Monitor) check(ctx context.Context, t target) {
	metrics, err := m.prober.Metrics(ctx, t.pod)
	if err != nil {
		klog.FromContext(ctx).V(4).Info("Cannot read the metrics of a proxy", "pod", klog.KObj(t.pod), "err", err)
		checksTotal.WithLabelValues(string(unread)).Inc()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.detector.places[t.place].due = m.now().Add(period)
		return
	}
	addresses := addressesOf(t.node, t.svc)
	m.mu.Lock()
	next, results := m.detector.observe(m.now(), t.place, readingOf(metrics, portsOf(t.svc, t.pod), addresses))
	m.mu.Unlock()
	for _, r := range results {
		checksTotal.WithLabelValues(string(r)).Inc()
	}
	var running sync.WaitGroup
	for _, p := range next {
		running.Go(func() {
			a := m.prober.connect(ctx, p, addresses[p.family])
			m.mu.Lock()
			defer m.mu.Unlock()
			m.detector.connected(m.now(), t.place, a)
		})
	}
	running.Wait()
}

// enqueueChanged enqueues the Services of which other nodes are unreachable than before.
func (m *Monitor) enqueueChanged(ctx context.Context, services map[types.UID][]target, before, after map[types.UID]Families) {
	for uid, targets := range services {
		if !reflect.DeepEqual(before[uid], after[uid]) {
			svc := targets[0].svc
			klog.FromContext(ctx).V(2).Info("Packets to other nodes than before do not reach their proxies", "service", klog.KObj(svc), "nodes", after[uid])
			m.cluster.Enqueue(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
		}
	}
}

// servicesOf returns the parts of the list that are of one Service, none of which is empty.
func servicesOf(targets []target) map[types.UID][]target {
	services := map[types.UID][]target{}
	for first, i := 0, 0; i < len(targets); i++ {
		if next := i + 1; next == len(targets) || targets[next].service != targets[first].service {
			services[targets[first].service] = targets[first:next]
			first = next
		}
	}
	return services
}

// repair replaces a proxy, if one is to be.
func (m *Monitor) repair(ctx context.Context, targets []target) {
	findings := m.detector.findings()
	unreachableGauge.Set(float64(len(findings)))
	if len(findings) == 0 && m.repairs.none() {
		return
	}
	states, byPlace := map[place]proxyState{}, map[place]target{}
	for _, t := range targets {
		s := m.detector.places[t.place]
		states[t.place] = proxyState{
			pod: t.pod.UID, ready: publish.Ready(t.pod),
			unreachable: len(findings[t.place]) > 0, answers: s == nil || s.answers(),
			withdrawn: withdrawn(t.svc, t.node, familiesOf(findings[t.place])),
		}
		byPlace[t.place] = t
	}
	where, found := m.repairs.next(m.now(), states)
	if !found {
		return
	}
	t := byPlace[where]
	if err := m.cluster.Delete(ctx, t.pod); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot replace a proxy that packets do not reach", "pod", klog.KObj(t.pod))
		m.repairs.abandon()
		return
	}
	replacedTotal.Inc()
	m.events.Normal(t.svc, ReasonReplaced, replacedMessage(t, findings[where]))
}
