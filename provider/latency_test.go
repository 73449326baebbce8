package provider

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	clienttesting "k8s.io/client-go/testing"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

var (
	latencyServices = flag.Int("latency-services", 5, "Services in the latency test; make bench uses more")
	latencyNodes    = flag.Int("latency-nodes", 4, "nodes in the latency test")
	latencyRounds   = flag.Int("latency-rounds", 1, "how often each cause occurs in the latency test")
)

// pause separates two causes, so that the reconciliation of the first does not include the second.
const pause = 150 * time.Millisecond

// TestEveryCauseReachesTheStatus triggers each kind of change that affects the status of a Service.
// For each affected Service it measures the time from the request to the API server to the patch of
// the status. It fails if a patch is missing, not if one is slow.
func TestEveryCauseReachesTheStatus(t *testing.T) {
	l := newLatencyHarness(t, *latencyServices, *latencyNodes)
	figures := map[string][]time.Duration{}
	var order []string
	for range *latencyRounds {
		for _, e := range slices.Concat(l.causes()...) {
			took := l.await(e)
			if _, known := figures[e.name]; !known {
				order = append(order, e.name)
			}
			figures[e.name] = append(figures[e.name], took...)
		}
	}
	l.wantMeasured(figures)
	t.Logf("%d Services on %d nodes, each cause %d times:\n%s", *latencyServices, *latencyNodes, *latencyRounds, table(order, figures))
}

// wantMeasured compares the times that the metric has with those of the test. These begin earlier, with
// the request to the API server, and an event that the metric does not forget would take ever longer.
func (l *latencyHarness) wantMeasured(figures map[string][]time.Duration) {
	all := slices.Concat(slices.Collect(maps.Values(figures))...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.measured) < len(all) {
		l.Fatalf("the metric has %d times, want at least %d", len(l.measured), len(all))
	}
	if longest := slices.Max(all) + time.Second; slices.Max(l.measured) > longest || slices.Min(l.measured) <= 0 {
		l.Errorf("the metric has times from %s to %s, want up to %s", slices.Min(l.measured), slices.Max(l.measured), longest)
	}
}

// causes returns all changes, of the last node or of the Services on it. Each is followed by the
// change that reverts it.
func (l *latencyHarness) causes() [][]event {
	common := append(slices.Clone(l.ordinary), "holder", "local")
	without := l.ips[:len(l.ips)-1]
	moved := append(slices.Clone(without), "203.0.113.250")
	// out removes the last node from the status of each Service; back adds it again.
	out := func(name string, services []string, each func(string)) event {
		return event{name: name, each: each, services: services, want: without}
	}
	back := func(name string, services []string, each func(string)) event {
		return event{name: name, each: each, services: services, want: l.ips}
	}
	onNode := func(name, opposite string, want []string, change func(*v1.Node)) []event {
		return []event{
			event{name: name, once: func() { l.update(change) }, services: common, want: want},
			event{name: opposite, once: func() { l.update(func(*v1.Node) {}) }, services: common, want: l.ips},
		}
	}
	return [][]event{
		onNode("node not Ready", "node Ready", without, func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionUnknown }),
		l.whileRangesChange(common, without),
		onNode("node's external address changed", "and changed back", moved, func(n *v1.Node) { n.Status.Addresses[0].Address = "203.0.113.250" }),
		onNode("node excluded from load balancers", "node not excluded", without, func(n *v1.Node) { n.Labels[v1.LabelNodeExcludeBalancers] = "" }),
		onNode("node to be deleted by the autoscaler", "node to stay", without, taint(servicecontroller.ToBeDeletedTaint)),
		onNode("node out of service", "node in service", without, taint(v1.TaintNodeOutOfService)),
		{
			event{name: "node gone", once: l.deleteNode, services: common, want: without},
			event{name: "node back", once: l.createNode, services: common, want: l.ips},
		},
		{
			event{name: "node gone, and the cloud does not answer", once: func() { l.stallFirewall(); l.deleteNode() }, services: common, want: without},
			event{name: "node back", once: func() { l.resumeFirewall(); l.createNode() }, services: common, want: l.ips},
		},
		{
			out("endpoint of policy Local gone", []string{"local"}, func(string) { l.endpoints("local", l.names()[:len(without)]...) }),
			back("endpoint of policy Local ready", []string{"local"}, func(string) { l.endpoints("local", l.names()...) }),
		},
		{
			out("annotation that leaves out a node", l.ordinary, func(name string) {
				l.edit(name, withAnnotation(options.NodeSelector, v1.LabelHostname+"!="+l.last().Name))
			}),
			back("annotation removed", l.ordinary, func(name string) { l.edit(name, func(svc *v1.Service) { svc.Annotations = nil }) }),
		},
		{back("status wiped by somebody", l.ordinary, func(name string) {
			l.edit(name, func(svc *v1.Service) { svc.Status.LoadBalancer = v1.LoadBalancerStatus{} })
		})},
		{back("status edited by somebody", l.ordinary, func(name string) {
			l.edit(name, func(svc *v1.Service) { svc.Status.LoadBalancer.Ingress[0].IP = "192.0.2.1" })
		})},
		{
			back("port freed by a Service", []string{"loser"}, func(string) { l.edit("holder", tcp(79)) }),
			event{name: "port taken by a node port", each: func(string) {
				l.edit("holder", func(svc *v1.Service) { svc.Spec.Ports[0].NodePort = 80 })
			}, services: []string{"loser"}},
		},
		{
			event{name: "port freed by another's pod", once: l.deleteForeignPod, services: []string{"blocked"}, want: l.ips[:1]},
			event{name: "port taken by another's pod", once: l.blockPort, services: []string{"blocked"}},
		},
		// Last, as a proxy set that is younger than publish.NewSetTimeout keeps its addresses.
		{out("proxy not Ready", l.ordinary, l.proxyGets(notReady)), back("proxy Ready", l.ordinary, l.proxyGets(ready))},
		{out("proxy being stopped", l.ordinary, l.proxyGets(stopping)), back("proxy started", l.ordinary, l.proxyGets(ready))},
	}
}

// table returns the figures as a Markdown table, as in the documentation.
func table(order []string, figures map[string][]time.Duration) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "| cause\t| statuses\t| p50, ms\t| p99, ms\t| worst, ms\t|")
	for _, name := range order {
		took := figures[name]
		slices.Sort(took)
		n := len(took)
		fmt.Fprintf(w, "| %s\t| %d\t| %d\t| %d\t| %d\t|\n", name, n, took[n/2].Milliseconds(), took[n*99/100].Milliseconds(), took[n-1].Milliseconds())
	}
	w.Flush() // Writes to a buffer: never an error.
	return out.String()
}

// event changes statuses: once for all Services, or each for one of them.
type event struct {
	name string
	once func()
	each func(service string)
	// After the event, the status of each of the services has the addresses want.
	services []string
	want     []string
}

// latencyHarness is a cluster with Services on all nodes. It measures when their statuses change.
type latencyHarness struct {
	*cluster
	// ordinary are the names of the Services without special properties. Each other Service is
	// for one cause. Node n<i+1> has the address ips[i].
	ordinary []string
	ips      []string
	// resumeFirewall ends what stallFirewall began.
	resumeFirewall func()

	mu sync.Mutex
	// measured are the times that the metric has.
	measured []time.Duration
	want     []string
	// began is when the event occurred, for each Service whose status is awaited.
	began map[string]time.Time
	took  []time.Duration
	done  chan struct{}
}

// patched is called with each Service whose status was patched.
func (l *latencyHarness) patched(svc *v1.Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var got []string
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		got = append(got, entry.IP)
	}
	began, awaited := l.began[svc.Name]
	if !awaited || !sets.New(got...).Equal(sets.New(l.want...)) {
		return
	}
	l.took = append(l.took, time.Since(began))
	if delete(l.began, svc.Name); len(l.began) == 0 {
		close(l.done)
	}
}

// await triggers an event and returns the time until each status had changed.
func (l *latencyHarness) await(e event) []time.Duration {
	l.Helper()
	time.Sleep(pause)
	l.mu.Lock()
	l.want, l.took, l.began, l.done = e.want, nil, map[string]time.Time{}, make(chan struct{})
	done := l.done
	l.startTimers(e.services...)
	l.mu.Unlock()
	if e.once != nil {
		e.once()
	} else {
		for _, name := range e.services {
			l.mu.Lock()
			l.startTimers(name)
			l.mu.Unlock()
			e.each(name)
		}
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.began) > 0 {
		l.Fatalf("%s: the status of %d of %d Services never became %v: %v", e.name, len(l.began), len(e.services), e.want, l.began)
	}
	return l.took
}

func (l *latencyHarness) startTimers(services ...string) {
	for _, name := range services {
		l.began[name] = time.Now()
	}
}

func newLatencyHarness(t *testing.T, services, nodes int) *latencyHarness {
	l := &latencyHarness{}
	var objects []runtime.Object
	for i := range nodes {
		l.ips = append(l.ips, fmt.Sprintf("203.0.%d.%d", 113+i/250, i%250+1))
		objects = append(objects, l.node(i))
	}
	l.cluster = newCluster(t, objects...)
	l.onStatus = l.patched
	l.onStatusTime = func(took time.Duration) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.measured = append(l.measured, took)
	}
	l.simulateKubelets()
	l.startWith(10) // As many workers as the program runs.
	for i := range services {
		l.ordinary = append(l.ordinary, fmt.Sprint("web", i))
		l.served(service(l.ordinary[i], tcp(int32(1000+i))), l.ips)
	}
	l.served(service("holder", createdAt(1), tcp(80)), l.ips)
	l.create(service("loser", createdAt(2), tcp(80)))
	l.endpoints("local", l.names()...)
	l.served(service("local", tcp(81), func(svc *v1.Service) { svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal }), l.ips)
	l.createForeignPod()
	l.create(service("blocked", tcp(82), withAnnotation(options.NodeSelector, v1.LabelHostname+"=n1")))
	return l
}

func (l *latencyHarness) node(i int) *v1.Node {
	n := node(fmt.Sprint("n", i+1), l.ips[i])
	n.Labels[v1.LabelHostname] = n.Name
	return n
}

// last returns the node that the events affect.
func (l *latencyHarness) last() *v1.Node { return l.node(len(l.ips) - 1) }

func (l *latencyHarness) names() []string {
	var names []string
	for i := range l.ips {
		names = append(names, fmt.Sprint("n", i+1))
	}
	return names
}

// served creates a Service and waits until its status has the addresses want.
func (l *latencyHarness) served(svc *v1.Service, want []string) {
	l.Helper()
	l.await(event{name: "creating Service " + svc.Name, once: func() { l.create(svc) }, services: []string{svc.Name}, want: want})
}

// createForeignPod creates a pod that uses the port of Service blocked on its only node.
func (l *latencyHarness) createForeignPod() {
	must[*v1.Pod](l.cluster)(l.kube.CoreV1().Pods("apps").Create(context.Background(), foreignPod("foreign", "n1", 82), metav1.CreateOptions{}))
}

func (l *latencyHarness) proxyGets(change func(*v1.Pod)) func(service string) {
	return func(service string) { l.proxy(service, l.last().Name, change) }
}

func stopping(pod *v1.Pod) {
	ready(pod)
	pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
}

// update resets the last node and applies a change.
func (l *latencyHarness) update(change func(*v1.Node)) {
	n := l.last()
	change(n)
	must[*v1.Node](l.cluster)(l.kube.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{}))
}

func (l *latencyHarness) deleteNode() {
	if err := l.kube.CoreV1().Nodes().Delete(context.Background(), l.last().Name, metav1.DeleteOptions{}); err != nil {
		l.Fatal(err)
	}
}

// whileRangesChange returns events of the last node that the proxies' reloads may delay.
func (l *latencyHarness) whileRangesChange(services, without []string) []event {
	return []event{
		event{name: "node not Ready while source ranges change", once: func() {
			l.editRanges("192.0.2.0/24", "198.51.100.0/24")
			l.update(func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionUnknown })
		}, services: services, want: without},
		event{name: "node Ready while they change", once: func() {
			l.editRanges()
			l.update(func(*v1.Node) {})
		}, services: services, want: l.ips},
	}
}

// editRanges changes the source ranges of 20 Services, which makes all of their proxies reload.
func (l *latencyHarness) editRanges(ranges ...string) {
	for _, name := range l.ordinary[:min(20, len(l.ordinary))] {
		l.edit(name, func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = ranges })
	}
}

// stallFirewall blocks all firewall operations.
func (l *latencyHarness) stallFirewall() {
	blocked := make(chan struct{})
	l.firewall.FailWith(func(string, firewall.Owner) error { <-blocked; return nil })
	l.resumeFirewall = func() { close(blocked); l.firewall.FailWith(nil) }
}

func (l *latencyHarness) createNode() {
	must[*v1.Node](l.cluster)(l.kube.CoreV1().Nodes().Create(context.Background(), l.last(), metav1.CreateOptions{}))
}

// blockPort creates the foreign pod while the proxy of Service blocked is not ready.
func (l *latencyHarness) blockPort() {
	l.proxy("blocked", "n1", notReady)
	l.createForeignPod()
}

// deleteForeignPod frees the port of Service blocked.
func (l *latencyHarness) deleteForeignPod() {
	if err := l.kube.CoreV1().Pods("apps").Delete(context.Background(), "foreign", metav1.DeleteOptions{}); err != nil {
		l.Fatal(err)
	}
}

// simulateKubelets makes the API server act as DaemonSet controller and kubelets. A DaemonSet has
// ready pods at once, so the measured times do not include their start.
func (l *latencyHarness) simulateKubelets() {
	tracker := l.kube.Tracker()
	pods := v1.SchemeGroupVersion.WithResource("pods")
	l.kube.PrependReactor("create", "daemonsets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		ds := action.(clienttesting.CreateAction).GetObject().(*appsv1.DaemonSet)
		wanted := nodeaffinity.NewLazyErrorNodeSelector(ds.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		for i := range l.ips {
			if matches, err := wanted.Match(l.node(i)); err != nil || !matches {
				continue
			}
			if err := tracker.Create(pods, podOf(ds, l.node(i).Name), system); err != nil {
				return true, nil, err
			}
		}
		return false, nil, nil
	})
	l.kube.PrependReactor("delete", "daemonsets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		for _, name := range l.names() {
			// Not every node has a pod.
			_ = tracker.Delete(pods, system, action.(clienttesting.DeleteAction).GetName()+"-"+name)
		}
		return false, nil, nil
	})
}

func podOf(ds *appsv1.DaemonSet, node string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: *ds.Spec.Template.ObjectMeta.DeepCopy(), Spec: *ds.Spec.Template.Spec.DeepCopy()}
	pod.Namespace, pod.Name, pod.Spec.NodeName = system, ds.Name+"-"+node, node
	ready(pod)
	return pod
}
