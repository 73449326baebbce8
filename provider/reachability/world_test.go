package reachability

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// syncPeriod is how often a proxy reads its counters.
const syncPeriod = 2 * time.Second

// drain is how long a proxy that is deleted stays.
const drain = 3 * time.Second

// world is a cluster with a clock of the test. The Service's status shows each node that serves and,
// as far as the Monitor knows, is reached; all if none is.
type world struct {
	*Monitor
	svc   *v1.Service
	ports []v1.ServicePort
	// nodes are the names of the nodes in their order.
	nodes   []*v1.Node
	proxies map[string]*fakeProxy
	time    time.Time
	made    int

	mu sync.Mutex
	// hostPorts are the IP families in which the network plugin supports host ports.
	hostPorts []v1.IPFamily
	// denies answers instead of a node, if it returns an outcome.
	denies func(node string, p port) outcome
	// cutOff are the nodes to whose pods there is no way.
	cutOff   map[string]bool
	probes   map[port]int
	requests int
	reasons  string
	deleted  []string
	enqueued int
	recorded []string
	recorder *record.FakeRecorder
	refuse   bool
}

// fakeProxy is a proxy with its node's rules.
type fakeProxy struct {
	pod             *v1.Pod
	rules           map[group]bool
	arrived, known  map[port]uint64
	synced, deleted time.Time
	syncs           uint64
	stuck           bool
}

func tcp(number int32) v1.ServicePort { return v1.ServicePort{Protocol: v1.ProtocolTCP, Port: number} }

// newWorld returns a cluster with n nodes, on which a Service has proxies with the ports.
func newWorld(n int, ports ...v1.ServicePort) *world {
	w := &world{
		ports: ports, time: time.Unix(1e9, 0), hostPorts: []v1.IPFamily{v1.IPv4Protocol}, denies: func(string, port) outcome { return "" },
		proxies: map[string]*fakeProxy{}, cutOff: map[string]bool{}, probes: map[port]int{}, recorder: record.NewFakeRecorder(1000),
	}
	w.svc = &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "web", UID: "u"}, Spec: v1.ServiceSpec{Ports: ports}}
	w.Monitor = New(Cluster{
		Proxies: w.pods,
		Service: func(name types.NamespacedName) *v1.Service {
			if name.Name != w.svc.Name {
				return nil
			}
			return w.svc
		},
		Node:    w.node,
		Direct:  func(*v1.Service) bool { return false },
		Delete:  w.remove,
		Enqueue: func(types.NamespacedName) { w.enqueued++ },
	}, events.NewRecorder(w.recorder, nil))
	w.prober, w.now = w, func() time.Time { return w.time }
	for i := range n {
		name := fmt.Sprint("n", i+1)
		w.nodes = append(w.nodes, &v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: v1.NodeStatus{
				Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}},
				Addresses:  []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: fmt.Sprint("10.0.0.", i+1)}, {Type: v1.NodeExternalIP, Address: fmt.Sprint("203.0.113.", i+1)}},
			},
		})
		w.create(name)
	}
	w.publish()
	return w
}

// dualStack gives all nodes and proxies an IPv6 address.
func (w *world) dualStack() *world {
	for i, node := range w.nodes {
		node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeExternalIP, Address: fmt.Sprint("2001:db8::", i+1)})
	}
	w.hostPorts = append(w.hostPorts, v1.IPv6Protocol)
	for name := range w.proxies {
		w.create(name)
	}
	w.publish()
	return w
}

// create makes a Ready proxy on a node; the network plugin writes its rules.
func (w *world) create(node string) {
	w.made++
	name := fmt.Sprint("proxy-", w.made)
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "hostport-system", Name: name, UID: types.UID(name), Labels: map[string]string{
			plan.LabelServiceNamespace: w.svc.Namespace, plan.LabelServiceName: w.svc.Name, plan.LabelServiceUID: string(w.svc.UID), plan.LabelProxySet: "1",
		}},
		Spec:   v1.PodSpec{NodeName: node, Containers: []v1.Container{{}}},
		Status: v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: metav1.Time{Time: w.time}}}},
	}
	p := &fakeProxy{pod: pod, rules: map[group]bool{}, arrived: map[port]uint64{}, known: map[port]uint64{}, synced: w.time}
	for _, own := range w.ports {
		pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, v1.ContainerPort{HostPort: own.Port, Protocol: own.Protocol})
		for _, f := range []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} {
			g := group{f, own.Protocol}
			p.rules[g] = slices.Contains(w.hostPorts, f)
			p.arrived[port{g, own.Port}], p.known[port{g, own.Port}] = 0, 0
		}
	}
	w.proxies[node] = p
}

func (w *world) pods() (pods []*v1.Pod) {
	for _, p := range w.proxies {
		pods = append(pods, p.pod)
	}
	return pods
}

func (w *world) node(name string) *v1.Node {
	for _, node := range w.nodes {
		if node.Name == name {
			return node
		}
	}
	return nil
}

// remove deletes a proxy; it drains, and then its DaemonSet makes another one.
func (w *world) remove(_ context.Context, pod *v1.Pod) error {
	if w.refuse {
		return errors.New("forbidden")
	}
	p := w.proxies[pod.Spec.NodeName]
	p.deleted = w.time
	changed := pod.DeepCopy()
	changed.DeletionTimestamp = &metav1.Time{Time: w.time}
	p.pod = changed
	w.deleted = append(w.deleted, pod.Spec.NodeName)
	return nil
}

// flush removes the rules of nodes, of all groups.
func (w *world) flush(nodes ...string) {
	for _, node := range nodes {
		clear(w.proxies[node].rules)
	}
}

// client sends the first packet of a client's connection.
func (w *world) client(node string, p port) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrive(w.proxies[node], p)
}

func (w *world) arrive(proxy *fakeProxy, p port) outcome {
	if !proxy.rules[p.group] {
		return refused
	}
	proxy.arrived[p]++
	if p.protocol == v1.ProtocolUDP {
		return silent
	}
	return answered
}

// connect is that of prober.
func (w *world) connect(_ context.Context, p port, address string) attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probes[p]++
	node := w.nodes[slices.IndexFunc(w.nodes, func(n *v1.Node) bool {
		return slices.ContainsFunc(n.Status.Addresses, func(a v1.NodeAddress) bool { return a.Address == address })
	})].Name
	o := w.denies(node, p)
	if o == "" {
		o = w.arrive(w.proxies[node], p)
	}
	return attempt{port: p, outcome: o, remote: node != "n1"}
}

// Metrics is that of prober. It answers as a proxy that reads its counters in each sync.
func (w *world) Metrics(_ context.Context, pod *v1.Pod) (map[string]*dto.MetricFamily, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	if w.cutOff[pod.Spec.NodeName] {
		return nil, errors.New("no route")
	}
	p := w.proxies[pod.Spec.NodeName]
	families := map[string]*dto.MetricFamily{}
	add := func(name string, value uint64, labels ...string) {
		metric := &dto.Metric{Counter: &dto.Counter{Value: ptr.To(float64(value))}}
		for pair := range slices.Chunk(labels, 2) {
			metric.Label = append(metric.Label, &dto.LabelPair{Name: &pair[0], Value: &pair[1]})
		}
		if families[name] == nil {
			families[name] = &dto.MetricFamily{}
		}
		families[name].Metric = append(families[name].Metric, metric)
	}
	add(syncsCounter, p.syncs, "result", syncedUnchanged)
	for own, n := range p.known {
		add(connectionsCounter, n, "family", string(own.family), "protocol", string(own.protocol), "port", fmt.Sprint(own.number))
	}
	return families, nil
}

// NotReady is that of prober.
func (w *world) NotReady(context.Context, *v1.Pod) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	if w.reasons == "" {
		return "", errors.New("no answer")
	}
	return w.reasons, nil
}

// run lets time pass in steps of a second.
func (w *world) run(t *testing.T, d time.Duration) { w.runWith(t.Context(), d, func() {}) }

func (w *world) runWith(ctx context.Context, d time.Duration, each func()) {
	for end := w.time.Add(d); w.time.Before(end); {
		w.time = w.time.Add(time.Second)
		for node, p := range w.proxies {
			if !p.deleted.IsZero() && w.time.Sub(p.deleted) >= drain {
				w.create(node)
				continue
			}
			if !p.stuck && w.time.Sub(p.synced) >= syncPeriod {
				p.synced, p.known = w.time, maps.Clone(p.arrived)
				p.syncs++
			}
		}
		w.round(ctx)
		w.publish()
		for {
			select {
			case event := <-w.recorder.Events:
				w.recorded = append(w.recorded, event)
				continue
			default:
			}
			break
		}
		each()
	}
}

// publish writes the status that package publish computes, in essence.
func (w *world) publish() {
	var reached, all v1.LoadBalancerStatus
	for _, node := range w.nodes {
		p := w.proxies[node.Name]
		if p.pod.DeletionTimestamp != nil || p.pod.Status.Conditions[0].Status != v1.ConditionTrue {
			continue
		}
		for _, a := range node.Status.Addresses {
			family := v1.IPv4Protocol
			if strings.Contains(a.Address, ":") {
				family = v1.IPv6Protocol
			}
			entry := v1.LoadBalancerIngress{IP: a.Address, IPMode: ptr.To(v1.LoadBalancerIPModeProxy)}
			if a.Type != v1.NodeExternalIP {
				continue
			}
			all.Ingress = append(all.Ingress, entry)
			if !slices.Contains(w.Unreachable(w.svc)[node.Name], family) {
				reached.Ingress = append(reached.Ingress, entry)
			}
		}
	}
	changed := w.svc.DeepCopy()
	if changed.Status.LoadBalancer = reached; len(reached.Ingress) == 0 && len(all.Ingress) > 0 {
		changed.Status.LoadBalancer = all
	}
	w.svc = changed
}

// published returns the published addresses.
func (w *world) published() (ips []string) {
	for _, entry := range w.svc.Status.LoadBalancer.Ingress {
		ips = append(ips, entry.IP)
	}
	return ips
}

// hasEvent reports whether an event with all parts was recorded.
func (w *world) hasEvent(parts ...string) bool {
	return slices.ContainsFunc(w.recorded, func(event string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(event, part) })
	})
}

// draining returns how many proxies are being replaced.
func (w *world) draining() (n int) {
	for _, p := range w.proxies {
		if !p.deleted.IsZero() {
			n++
		}
	}
	return n
}
