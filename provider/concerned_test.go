package provider

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Whatever a change of a node changes in the plan or the status of a Service, the Service is concerned.
func TestEveryServiceThatANodeChangesIsConcerned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var before []*v1.Node
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			before = append(before, drawNode(t, i))
		}
		change, after := drawNodeChange(t, before)
		services, pods := drawServices(t, before)
		isDirect := rapid.Bool().Draw(t, "direct")
		admit := func(svc *v1.Service) (options.Options, error) {
			return options.Parse(svc.Annotations, options.Default())
		}
		was, is := snapshot.New(before, services, admit, services), snapshot.New(after, services, admit, services)
		w := pureWorld{services, pods, isDirect}
		addresses, nodes := publish.AddressesOf(change.Nodes()), snapshot.Names(change.Nodes())
		got := map[string]bool{}
		for _, svc := range is.Concerned(change, snapshot.Footprint{
			On: func(svc *v1.Service) bool {
				onNode := func(pod *v1.Pod) bool { return nodes[publish.TargetNode(pod)] }
				return publish.ShowsAny(svc.Status.LoadBalancer, addresses) || slices.ContainsFunc(pods[svc.UID], onNode)
			},
			IsFull: func(svc *v1.Service) bool { _, _, full := w.outcome(t, was, svc); return full },
		}) {
			got[svc.Name] = true
		}
		for _, svc := range services {
			planBefore, statusBefore, full := w.outcome(t, was, svc)
			planAfter, statusAfter, _ := w.outcome(t, is, svc)
			if full { // The status that is full is the one that was computed, and is published by now.
				statusBefore, statusAfter = w.next(t, was, svc, statusBefore), w.next(t, is, svc, statusBefore)
			}
			if diff := cmp.Diff(planBefore, planAfter) + cmp.Diff(statusBefore, statusAfter); diff != "" && !got[svc.Name] {
				t.Fatalf("Service %s is not concerned: %s", svc.Name, diff)
			}
		}
	})
}

// pureWorld computes plans and statuses of Services without a cluster.
type pureWorld struct {
	services []*v1.Service
	pods     map[types.UID][]*v1.Pod
	direct   bool
}

func (w pureWorld) plan(t *rapid.T, cluster *snapshot.Cluster, svc *v1.Service) *plan.Plan {
	o, err := options.Parse(svc.Annotations, options.Default())
	if err != nil {
		t.Fatal(err)
	}
	held := map[snapshot.Port]map[types.UID]map[string]bool{}
	for _, port := range snapshot.PortsOf(svc) {
		held[port] = map[types.UID]map[string]bool{}
		for _, other := range w.services {
			if slices.Contains(snapshot.PortsOf(other), port) {
				held[port][other.UID] = publish.Running(w.pods[other.UID])
			}
		}
	}
	p, err := plan.Settings{ClusterID: "tests"}.Build(plan.Input{
		Service: svc, Options: o, Cluster: cluster, Held: held, Running: publish.Running(w.pods[svc.UID]),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// outcome returns what a plan and a status say, in a form that can be compared, and whether the status is
// full.
func (w pureWorld) outcome(t *rapid.T, cluster *snapshot.Cluster, svc *v1.Service) (planned map[string]any, status v1.LoadBalancerStatus, full bool) {
	p := w.plan(t, cluster, svc)
	if p.Service == nil {
		return map[string]any{"conflicts": p.Conflicts}, status, false
	}
	in := w.input(cluster, svc, p, svc.Status.LoadBalancer)
	next := publish.Status(in)
	return map[string]any{
		"nodes": slices.Sorted(maps.Keys(snapshot.Names(p.Nodes))), "ports": snapshot.PortsOf(p.Service), "conflicts": p.Conflicts,
		"firewall": fmt.Sprint(p.Firewall.Ports, p.Firewall.Nodes, p.Firewall.Addresses), "no nodes": p.NoNodes != "", "occupied": p.Occupied,
	}, *next, publish.IsFull(in, next)
}

// next returns the status that follows one.
func (w pureWorld) next(t *rapid.T, cluster *snapshot.Cluster, svc *v1.Service, previous v1.LoadBalancerStatus) v1.LoadBalancerStatus {
	return *publish.Status(w.input(cluster, svc, w.plan(t, cluster, svc), previous))
}

func (w pureWorld) input(cluster *snapshot.Cluster, svc *v1.Service, p *plan.Plan, previous v1.LoadBalancerStatus) publish.Input {
	o, _ := options.Parse(svc.Annotations, options.Default())
	in := publish.Input{
		Nodes: p.Nodes, Others: cluster.NodesIn(previous), Previous: previous, Addresses: o.Addresses, MaxNodes: o.MaxNodes,
		Now: time.Unix(1000, 0), IPMode: publish.IPMode{ExternalIPv4: v1.LoadBalancerIPModeVIP},
	}
	planned := snapshot.Names(p.Nodes)
	in.Others = slices.DeleteFunc(in.Others, func(n *v1.Node) bool { return planned[n.Name] })
	if w.direct {
		in.Direct = planned
	} else {
		in.Sets = []publish.ProxySet{{Ports: snapshot.PortsOf(svc), Pods: w.pods[svc.UID]}}
	}
	return in
}

func drawNode(t *rapid.T, i int) *v1.Node {
	label := func(what string) string { return fmt.Sprintf("n%d %s", i, what) }
	n := node(fmt.Sprint("n", i), fmt.Sprint("203.0.113.", rapid.IntRange(1, 5).Draw(t, label("address"))))
	if pool := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, label("pool")); pool != "" {
		n.Labels["pool"] = pool
	}
	if rapid.Bool().Draw(t, label("excluded")) && rapid.Bool().Draw(t, label("really")) {
		n.Labels[v1.LabelNodeExcludeBalancers] = ""
	}
	n.Labels[v1.LabelTopologyZone] = rapid.SampledFrom([]string{"z1", "z2"}).Draw(t, label("zone"))
	if rapid.Bool().Draw(t, label("not ready")) {
		n.Status.Conditions[0].Status = v1.ConditionFalse
	}
	for _, key := range []string{"dedicated", "ToBeDeletedByClusterAutoscaler"} {
		if rapid.IntRange(0, 5).Draw(t, label(key)) == 0 {
			n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule})
		}
	}
	return n
}

// drawNodeChange returns a change of one of the nodes, and the nodes after it.
func drawNodeChange(t *rapid.T, before []*v1.Node) (snapshot.NodeChange, []*v1.Node) {
	i := rapid.IntRange(0, len(before)).Draw(t, "changed node")
	if i == len(before) {
		added := drawNode(t, i)
		return snapshot.NodeChange{After: added}, append(slices.Clone(before), added)
	}
	after, change := slices.Clone(before), snapshot.NodeChange{Before: before[i]}
	switch rapid.IntRange(0, 3).Draw(t, "change") {
	case 0:
		return change, slices.Delete(after, i, i+1)
	case 1:
		change.After = drawNode(t, i)
	default: // Its health only.
		change.After = before[i].DeepCopy()
		if status := &change.After.Status.Conditions[0].Status; *status == v1.ConditionTrue {
			*status = v1.ConditionUnknown
		} else {
			*status = v1.ConditionTrue
		}
	}
	after[i] = change.After
	return change, after
}

func drawServices(t *rapid.T, nodes []*v1.Node) ([]*v1.Service, map[types.UID][]*v1.Pod) {
	var services []*v1.Service
	pods := map[types.UID][]*v1.Pod{}
	for i := range rapid.IntRange(1, 4).Draw(t, "services") {
		label := func(what string) string { return fmt.Sprintf("s%d %s", i, what) }
		svc := service(fmt.Sprint("s", i), createdAt(i), tcp(rapid.SliceOfNDistinct(rapid.Int32Range(80, 82), 1, 2, rapid.ID[int32]).Draw(t, label("ports"))...))
		svc.Annotations = map[string]string{}
		if pool := rapid.SampledFrom([]string{"", "pool=a", "pool=b", "pool=c"}).Draw(t, label("selector")); pool != "" {
			svc.Annotations[options.NodeSelector] = pool
		}
		if n := rapid.IntRange(0, 2).Draw(t, label("max nodes")); n > 0 {
			svc.Annotations[options.MaxNodes] = fmt.Sprint(n)
		}
		for _, n := range nodes {
			if rapid.Bool().Draw(t, label("published "+n.Name)) {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: n.Status.Addresses[0].Address})
			}
			if rapid.Bool().Draw(t, label("proxy on "+n.Name)) {
				pods[svc.UID] = append(pods[svc.UID], drawPod(t, label("proxy on "+n.Name), svc, n.Name))
			}
		}
		services = append(services, svc)
	}
	return services, pods
}

func drawPod(t *rapid.T, label string, svc *v1.Service, node string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: svc.Name + "-" + node, CreationTimestamp: metav1.Unix(1, 0)}}
	pod.Spec.NodeName = node
	container := v1.Container{}
	for _, port := range snapshot.PortsOf(svc) {
		container.Ports = append(container.Ports, v1.ContainerPort{HostPort: port.Number, Protocol: port.Protocol})
	}
	pod.Spec.Containers = []v1.Container{container}
	if rapid.Bool().Draw(t, label+" ready") {
		ready(pod)
	}
	return pod
}

// ensures counts the calls of EnsureLoadBalancer by Service.
type ensures struct {
	mu     sync.Mutex
	counts map[string]int
}

func (e *ensures) add(svc *v1.Service) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.counts == nil {
		e.counts = map[string]int{}
	}
	e.counts[svc.Name]++
}

// take returns the Services that were ensured since it was last called.
func (e *ensures) take() sets.Set[string] {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := sets.KeySet(e.counts)
	e.counts = nil
	return names
}

// ensuredUntilQuiet waits until nothing has been ensured for a while, and returns the Services that were.
func (c *cluster) ensuredUntilQuiet(e *ensures) sets.Set[string] {
	c.Helper()
	all := sets.New[string]()
	for quiet := 0; quiet < 3; {
		time.Sleep(200 * time.Millisecond)
		if names := e.take(); len(names) > 0 {
			all, quiet = all.Union(names), 0
		} else {
			quiet++
		}
	}
	return all
}

// countEnsures counts the ensured Services. Call it before start.
func (c *cluster) countEnsures() *ensures {
	e := &ensures{}
	c.onEnsure = e.add
	return e
}

func TestANodeChangeEnsuresOnlyTheServicesThatItConcerns(t *testing.T) {
	a, b := node("n1", "203.0.113.1"), node("n2", "203.0.113.2")
	a.Labels["pool"], b.Labels["pool"] = "a", "b"
	c := newCluster(t, a, b)
	e := c.countEnsures()
	c.start()
	for i := range 3 {
		for j, n := range []*v1.Node{a, b} {
			pool := n.Labels["pool"]
			name := fmt.Sprint(pool, i)
			c.create(service(name, tcp(int32(80+10*j+i)), withAnnotation(options.NodeSelector, "pool="+pool)))
			c.proxy(name, n.Name, ready)
			c.publishes(name, n.Status.Addresses[0].Address)
		}
	}
	// It selects no node, and competes for a port with a Service of each pool.
	c.create(service("rival", tcp(81, 91), createdAt(1000), withAnnotation(options.NodeSelector, "pool=c")))
	for name, step := range map[string]struct {
		change func(*v1.Node)
		want   []string
	}{
		"health":  {func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionUnknown }, []string{"a0", "a1", "a2", "rival"}},
		"address": {func(n *v1.Node) { n.Status.Addresses[0].Address = "203.0.113.9" }, []string{"a0", "a1", "a2", "rival"}},
		"nothing": {func(n *v1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() }, []string{}},
	} {
		c.ensuredUntilQuiet(e)
		c.editNode("n1", step.change)
		if got := c.ensuredUntilQuiet(e); !got.Equal(sets.New(step.want...)) {
			t.Errorf("after a change of %s, ensured %v, want %v", name, sets.List(got), step.want)
		}
	}
}

func TestAFailedNodeEnsuresOnlyTheServicesThatItConcerns(t *testing.T) {
	a, b := node("n1", "203.0.113.1"), node("n2", "203.0.113.2")
	b.Labels["pool"] = "b"
	c := newCluster(t, a, b)
	e := c.countEnsures()
	c.start()
	c.serve(service("both", tcp(80)))
	c.create(service("one", tcp(81), withAnnotation(options.NodeSelector, "pool=b")))
	c.proxy("one", "n2", ready)
	c.publishes("one", "203.0.113.2")
	c.ensuredUntilQuiet(e)
	c.nodes.SetDown("n1")
	c.publishes("both", "203.0.113.2")
	if got := c.ensuredUntilQuiet(e); !got.Equal(sets.New("both")) {
		t.Errorf("ensured %v", sets.List(got))
	}
}

// With datapath direct, the health of a node matters to the Services that publish it, and to those that
// publish fewer nodes than they may.
func TestANodeThatIsNotPublishedDoesNotMatterToAFullService(t *testing.T) {
	c := newCluster(t, node("n1", "203.0.113.1"), node("n2", "203.0.113.2"), node("n3", "203.0.113.3"))
	c.config.Provider, c.config.LoadBalancer.KubeProxyMode = config.ProviderNone, config.KubeProxyIPTables
	e := c.countEnsures()
	c.start()
	for i, n := range []int{1, 2, 3} {
		c.create(service(fmt.Sprint("max", n), tcp(int32(80+i)), withDatapath(options.DatapathDirect), func(svc *v1.Service) { svc.Annotations[options.MaxNodes] = fmt.Sprint(n) }))
	}
	c.publishes("max1", "203.0.113.1")
	c.publishes("max2", "203.0.113.1", "203.0.113.2")
	c.publishes("max3", "203.0.113.1", "203.0.113.2", "203.0.113.3")
	for _, step := range []struct {
		node   string
		status v1.ConditionStatus
		want   []string
	}{
		{"n3", v1.ConditionUnknown, []string{"max3"}},
		{"n3", v1.ConditionTrue, []string{"max3"}},
		{"n2", v1.ConditionUnknown, []string{"max2", "max3"}},
		{"n2", v1.ConditionTrue, []string{"max3"}}, // max2 has n3 in its place.
	} {
		c.ensuredUntilQuiet(e)
		c.editNode(step.node, func(n *v1.Node) { n.Status.Conditions[0].Status = step.status })
		if got := c.ensuredUntilQuiet(e); !got.Equal(sets.New(step.want...)) {
			t.Errorf("%s %s: ensured %v, want %v", step.node, step.status, sets.List(got), step.want)
		}
	}
	c.publishes("max2", "203.0.113.1", "203.0.113.3")
	c.publishes("max3", "203.0.113.1", "203.0.113.2", "203.0.113.3")
}
