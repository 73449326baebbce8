package provider

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/retry"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	managerapp "k8s.io/controller-manager/app"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/firewall/firewalltest"
	"github.com/hostport-ccm/hostport-ccm/internal/apitest"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/direct"
	"github.com/hostport-ccm/hostport-ccm/provider/failover/failovertest"
	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

const system = "hostport-system"

// A watch of the fake clientset panics when its buffer is full. On a slow machine the default
// buffer is too small.
func init() { watch.DefaultChanSize = 10_000 }

// cluster is a fake API server and a fake firewall, against which the real service controller runs.
// It adds what client-go's fake omits and the controller relies on: a deleted object exists until
// its last finalizer is removed, and gets no new finalizers.
type cluster struct {
	*testing.T
	kube *fake.Clientset
	// ccm has the same objects as kube. Its log has the requests of hostport-ccm alone; reload is for those
	// that may be slow, and can be set before start.
	ccm       *fake.Clientset
	reload    kubernetes.Interface
	firewall  *firewalltest.Fake
	config    *config.CloudConfig
	addresses *nodeaddress.Reader
	nodes     *failovertest.Monitor
	// takeover is how long the proxies stay after kube-proxy serves all nodes.
	takeover time.Duration
	// unreachable, if set before start, is what the reachability monitor finds.
	unreachable *atomic.Pointer[map[string][]v1.IPFamily]
	balancer    *loadBalancer
	watches     atomic.Int32
	settled     atomic.Int32
	// onEnsure, if set before start, is called with each Service that is ensured.
	onEnsure func(*v1.Service)
	// onStatus, if set before start, is called with each Service whose status was patched.
	onStatus func(*v1.Service)
	// onStatusTime, if set before start, is called with each time from an event to the status.
	onStatusTime func(time.Duration)
	// inventory counts what is served.
	inventory func() inventory
}

// parallel are the tests that run in parallel, which a test may ask for once.
var parallel sync.Map

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	if _, again := parallel.LoadOrStore(t, true); !again {
		t.Parallel() // Tests mostly wait.
	}
	c := &cluster{T: t, kube: apitest.NewClientset(append(objects, systemNamespace(systemUID))...), firewall: &firewalltest.Fake{}, nodes: &failovertest.Monitor{}, config: &config.CloudConfig{
		ClusterID: "tests",
		Provider:  config.ProviderGCE,
		LoadBalancer: config.LoadBalancer{
			ProxyImage: "proxy:1", ImagePullPolicy: v1.PullIfNotPresent, Namespace: system, Classes: config.ClassesBoth,
			Addresses: options.External, Firewall: firewall.Managed,
		},
	}}
	c.ccm = clientOf(c.kube)
	c.reload = c.ccm
	tracker := c.kube.Tracker()
	c.kube.PrependReactor("patch", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if err := refuseFinalizers(tracker, action.(clienttesting.PatchAction)); err != nil {
			return true, nil, err
		}
		_, obj, err := apitest.Reaction(tracker)(action)
		if err == nil {
			err = finalize(tracker, obj.(*v1.Service))
		}
		if err == nil && action.GetSubresource() == "status" && c.onStatus != nil {
			c.onStatus(obj.(*v1.Service))
		}
		return true, obj, err
	})
	c.kube.PrependReactor("delete", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if err := apitest.Check(tracker, action); err != nil {
			return true, nil, err
		}
		name := action.(clienttesting.DeleteAction).GetName()
		obj, err := tracker.Get(action.GetResource(), action.GetNamespace(), name)
		if err != nil {
			return true, nil, err
		}
		svc := obj.(*v1.Service).DeepCopy()
		svc.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		if err := tracker.Update(action.GetResource(), svc, svc.Namespace); err != nil {
			return true, nil, err
		}
		return true, nil, finalize(tracker, svc)
	})
	c.kube.PrependReactor("create", "daemonsets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		action.(clienttesting.CreateAction).GetObject().(*appsv1.DaemonSet).CreationTimestamp = metav1.Now()
		return false, nil, nil
	})
	c.kube.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w, err := tracker.Watch(action.GetResource(), action.GetNamespace())
		c.watches.Add(1)
		return true, w, err
	})
	return c
}

// clientOf returns another client of the same fake API server, which has a log of its own.
func clientOf(kube *fake.Clientset) *fake.Clientset {
	client := fake.NewClientset()
	client.ReactionChain, client.WatchReactionChain = nil, nil
	client.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		obj, err := kube.Invokes(action, nil)
		return true, obj, err
	})
	client.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w, err := kube.InvokesWatch(action)
		return true, w, err
	})
	return client
}

func twoNodes(t *testing.T) *cluster {
	return newCluster(t, node("n1", "203.0.113.1"), node("n2", "203.0.113.2"))
}

// twoTranslatedNodes returns a cluster on GCE whose kube-proxies run in mode iptables.
func twoTranslatedNodes(t *testing.T, objects ...runtime.Object) *cluster {
	c := newCluster(t, append(objects, translatedNode(1), translatedNode(2))...)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyIPTables
	c.config.LoadBalancer.Datapath = options.DatapathProxy
	return c
}

// refuseFinalizers returns an error if a patch adds finalizers to a deleted Service.
func refuseFinalizers(tracker clienttesting.ObjectTracker, action clienttesting.PatchAction) error {
	obj, err := tracker.Get(action.GetResource(), action.GetNamespace(), action.GetName())
	if err != nil || obj.(*v1.Service).DeletionTimestamp == nil || !bytes.Contains(action.GetPatch(), []byte(`"finalizers":[`)) {
		return nil
	}
	return apierrors.NewInvalid(v1.SchemeGroupVersion.WithKind("Service").GroupKind(), action.GetName(), field.ErrorList{
		field.Forbidden(field.NewPath("metadata", "finalizers"), "no new finalizers can be added if the object is being deleted"),
	})
}

// finalize removes a deleted Service once it has no finalizers.
func finalize(tracker clienttesting.ObjectTracker, svc *v1.Service) error {
	if svc.DeletionTimestamp == nil || len(svc.Finalizers) > 0 {
		return nil
	}
	return tracker.Delete(v1.SchemeGroupVersion.WithResource("services"), svc.Namespace, svc.Name)
}

// start runs the service controller with one worker, which reconciles Services one after the other.
// The returned function stops it.
func (c *cluster) start() (stop func()) {
	c.Helper()
	return c.startWith(1)
}

func (c *cluster) startWith(workers int) (stop func()) {
	c.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	shared := informers.NewSharedInformerFactory(c.ccm, 0)
	if err := view.SlimShared(shared); err != nil {
		c.Fatal(err)
	}
	cloud := &Cloud{
		config: c.config, instances: ownInstances{}, addresses: c.addresses, failures: c.nodes,
		newFirewall: func(firewall.Cluster) firewall.Firewall { return c.firewall },
	}
	run, err := cloud.serviceController(ctx, c.ccm, c.reload, shared, "test")
	if err != nil {
		c.Fatal(err)
	}
	c.balancer = cloud.balancer
	c.inventory = cloud.inventory
	c.direct().TakeoverTime = c.takeover
	if c.unreachable != nil {
		c.balancer.unreachable = func(*v1.Service) map[string][]v1.IPFamily { return *c.unreachable.Load() }
	}
	if c.onStatusTime != nil {
		c.balancer.services.(*view.Services).ObserveStatusTimes(c.onStatusTime)
	}
	if c.onEnsure != nil {
		c.balancer.unreachable = func(svc *v1.Service) map[string][]v1.IPFamily { c.onEnsure(svc); return nil }
	}
	before := c.watches.Load()
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx, workers, managerapp.ControllerContext{ControllerManagerMetrics: controllersmetrics.NewControllerManagerMetrics("test")})
	}()
	shared.Start(ctx.Done())
	// The fake loses events between its list and its watch.
	c.eventually("seven informers watch", func() bool { return c.watches.Load() >= before+7 })
	stop = func() { cancel(); <-done; shared.Shutdown() }
	c.Cleanup(stop)
	return stop
}

func (c *cluster) direct() *direct.Manager { return c.balancer.direct.(*direct.Manager) }

// eventually waits for a condition, and fails the test after 20 seconds.
func (c *cluster) eventually(what string, met func() bool) {
	c.Helper()
	err := wait.PollUntilContextTimeout(context.Background(), 5*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) { return met(), nil })
	if err != nil {
		c.Fatalf("never: %s; writes: %v, events: %v", what, c.writes(), c.events())
	}
}

// writes lists all writes to the API server so far, except events.
func (c *cluster) writes() []string {
	var list []string
	for _, action := range c.kube.Actions() {
		resource := action.GetResource().Resource
		if slices.Contains([]string{"get", "list", "watch"}, action.GetVerb()) || resource == "events" {
			continue
		}
		if sub := action.GetSubresource(); sub != "" {
			resource += "/" + sub
		}
		list = append(list, action.GetVerb()+" "+resource)
	}
	return list
}

// events lists the recorded events: type, reason, object and message.
func (c *cluster) events() []string {
	list, err := c.kube.CoreV1().Events("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	var events []string
	for _, e := range list.Items {
		events = append(events, fmt.Sprintf("%s %s %s: %s", e.Type, e.Reason, e.InvolvedObject.Name, e.Message))
	}
	return events
}

func (c *cluster) hasEvent(parts ...string) bool {
	return slices.ContainsFunc(c.events(), func(event string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(event, part) })
	})
}

// must returns a result, and fails the test on an error.
func must[T any](c *cluster) func(T, error) T {
	return func(result T, err error) T {
		c.Helper()
		if err != nil {
			c.Fatal(err)
		}
		return result
	}
}

func (c *cluster) create(svc *v1.Service) {
	c.Helper()
	must[*v1.Service](c)(c.kube.CoreV1().Services(svc.Namespace).Create(context.Background(), svc, metav1.CreateOptions{}))
}

// edit updates a Service as a user does.
func (c *cluster) edit(name string, change func(*v1.Service)) {
	c.Helper()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		svc := c.service(name)
		change(svc)
		_, err := c.kube.CoreV1().Services("default").Update(context.Background(), svc, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) delete(name string) {
	c.Helper()
	if err := c.kube.CoreV1().Services("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) service(name string) *v1.Service {
	c.Helper()
	return must[*v1.Service](c)(c.kube.CoreV1().Services("default").Get(context.Background(), name, metav1.GetOptions{})).DeepCopy()
}

// daemonSet returns the DaemonSet of a Service's first proxy set, or nil.
func (c *cluster) daemonSet(name string) *appsv1.DaemonSet { c.Helper(); return c.daemonSetOf(0, name) }

// daemonSetOf returns the DaemonSet of one proxy set, or nil.
func (c *cluster) daemonSetOf(set int, name string) *appsv1.DaemonSet {
	c.Helper()
	ds, err := c.kube.AppsV1().DaemonSets(system).Get(context.Background(), plan.SetNames(service(name))[set], metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return must[*appsv1.DaemonSet](c)(ds, err).DeepCopy()
}

// configMap returns the ConfigMap of a Service's first proxy set, or nil.
func (c *cluster) configMap(name string) *v1.ConfigMap { c.Helper(); return c.configMapOf(0, name) }

func (c *cluster) configMapOf(set int, name string) *v1.ConfigMap {
	c.Helper()
	cm, err := c.kube.CoreV1().ConfigMaps(system).Get(context.Background(), plan.SetNames(service(name))[set], metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return must[*v1.ConfigMap](c)(cm, err).DeepCopy()
}

// mirror returns a Service's mirror, or nil.
func (c *cluster) mirror(name string) *v1.Service {
	c.Helper()
	svc, err := c.kube.CoreV1().Services("default").Get(context.Background(), plan.Name(service(name)), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return must[*v1.Service](c)(svc, err).DeepCopy()
}

// proxy writes a pod of the first proxy set, as DaemonSet controller and kubelet do.
func (c *cluster) proxy(name, node string, change func(*v1.Pod)) {
	c.Helper()
	c.proxyOf(0, name, node, change)
}

func (c *cluster) proxyOf(set int, name, node string, change func(*v1.Pod)) {
	c.Helper()
	c.eventually("DaemonSet of "+name, func() bool { return c.daemonSetOf(set, name) != nil })
	template := c.daemonSetOf(set, name).Spec.Template
	pod := &v1.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: template.Spec}
	pod.Namespace, pod.Name, pod.Spec.NodeName = system, plan.SetNames(service(name))[set]+"-"+node, node
	pod.CreationTimestamp = metav1.Now()
	change(pod)
	_, err := c.kube.CoreV1().Pods(system).Create(context.Background(), pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = c.kube.CoreV1().Pods(system).Update(context.Background(), pod, metav1.UpdateOptions{})
	}
	if err != nil {
		c.Fatal(err)
	}
}

// removeProxy deletes the pod of a proxy, as after its termination.
func (c *cluster) removeProxy(name, node string) {
	c.Helper()
	if err := c.kube.CoreV1().Pods(system).Delete(context.Background(), plan.Name(service(name))+"-"+node, metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
}

// endProxies waits until a Service's DaemonSets are deleted, and deletes the pods of its proxies, as
// after their termination.
func (c *cluster) endProxies(name string) {
	c.Helper()
	c.eventually("the DaemonSets of "+name+" are deleted", func() bool { return c.daemonSet(name) == nil && c.daemonSetOf(1, name) == nil })
	for _, pod := range must[*v1.PodList](c)(c.kube.CoreV1().Pods(system).List(context.Background(), metav1.ListOptions{LabelSelector: plan.LabelServiceUID + "=" + string(service(name).UID)})).Items {
		if err := c.kube.CoreV1().Pods(system).Delete(context.Background(), pod.Name, metav1.DeleteOptions{}); err != nil {
			c.Fatal(err)
		}
	}
}

// publishes waits until a Service's status has exactly these addresses, which are sorted, in any order.
func (c *cluster) publishes(name string, want ...string) {
	c.Helper()
	c.eventually(fmt.Sprintf("Service %s publishes %v", name, want), func() bool {
		var got []string
		for _, entry := range c.service(name).Status.LoadBalancer.Ingress {
			got = append(got, entry.IP)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// serve creates a Service and waits until two nodes are published. Its proxies are then as if they
// had been created an hour ago.
func (c *cluster) serve(svc *v1.Service) {
	c.Helper()
	c.create(svc)
	c.proxy(svc.Name, "n1", ready)
	c.proxy(svc.Name, "n2", ready)
	c.publishes(svc.Name, "203.0.113.1", "203.0.113.2")
	ds := c.daemonSet(svc.Name)
	ds.CreationTimestamp.Time = ds.CreationTimestamp.Add(-time.Hour)
	if err := c.kube.Tracker().Update(appsv1.SchemeGroupVersion.WithResource("daemonsets"), ds, system); err != nil {
		c.Fatal(err)
	}
}

// settle waits until all earlier changes are reconciled: the only worker has reconciled a Service
// that was created after them.
func (c *cluster) settle() {
	c.Helper()
	name := fmt.Sprint("settle-", time.Now().UnixNano())
	c.serve(service(name, tcp(int32(10000+c.settled.Add(1)))))
}

// wantNoResources fails if objects or firewall rules of a Service exist.
func (c *cluster) wantNoResources(name string) {
	c.Helper()
	sets := []bool{c.daemonSet(name) != nil, c.configMap(name) != nil, c.daemonSetOf(1, name) != nil, c.configMapOf(1, name) != nil}
	if slices.Contains(sets, true) || c.mirror(name) != nil || c.firewallAllows(name) {
		c.Errorf("resources of Service %s exist: objects of its proxies %v, mirror %v, firewall rules %v", name, sets, c.mirror(name), c.firewall.Rules())
	}
}

func (c *cluster) firewallAllows(name string) bool {
	open, err := c.firewall.Exists(context.Background(), plan.Settings{ClusterID: "tests-" + systemUID}.Owner(service(name)))
	return must[bool](c)(open, err)
}
