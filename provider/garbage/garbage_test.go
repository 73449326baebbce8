package garbage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/firewall/firewalltest"
	"github.com/hostport-ccm/hostport-ccm/firewall/operations"
	"github.com/hostport-ccm/hostport-ccm/internal/apitest"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

const system = "hostport-system"

// environment has resources of Services in a firewall and an API server, Services in a cache, and a
// Collector of their orphans.
type environment struct {
	*Collector
	kube     *fake.Clientset
	firewall *firewalltest.Fake
	sets     cache.Indexer // DaemonSets in the cache
	cached   cache.Indexer // Services in the cache
	recorder *record.FakeRecorder
}

// newEnvironment creates a firewall rule, a DaemonSet, a ConfigMap and a mirror for each of the
// owners, which may be of different clusters.
func newEnvironment(fatal func(...any), owners ...firewall.Owner) *environment {
	index := func() cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	fw, sets, maps, services := &firewalltest.Fake{}, index(), index(), index()
	var stored []runtime.Object
	for _, owner := range owners {
		p, err := planFor(owner)
		if err == nil {
			_, err = fw.Ensure(context.Background(), p.Firewall)
		}
		set := firstSet(p)
		if err := errors.Join(err, sets.Add(set.DaemonSet), maps.Add(set.ConfigMap), services.Add(p.Mirror)); err != nil {
			fatal(err)
		}
		stored = append(stored, set.DaemonSet, set.ConfigMap, p.Mirror)
	}
	e := &environment{kube: apitest.NewClientset(stored...), firewall: fw, sets: sets, cached: services, recorder: record.NewFakeRecorder(100)}
	settings := plan.Settings{ClusterID: "alpha", Namespace: system}
	reconciler := operations.New(fw, operations.MaxParallel, nil)
	listed := corelisters.NewServiceLister(e.cached)
	e.Collector = New(e.kube, settings, listed, func(svc *v1.Service) bool { return svc.Spec.Type == v1.ServiceTypeLoadBalancer }, events.NewRecorder(e.recorder, nil),
		firewallKind(reconciler, firewall.Managed),
		KindOf(objects.Mirrors(e.kube, settings, listed, nil)),
		KindOf(objects.DaemonSets(e.kube, settings, appslisters.NewDaemonSetLister(sets), nil)),
		KindOf(objects.ConfigMaps(e.kube, settings, corelisters.NewConfigMapLister(maps), nil)),
	)
	return e
}

func firewallKind(r *operations.Reconciler, mode firewall.Mode) Kind {
	return Kind{
		Name:   "firewall rules",
		Owners: func(ctx context.Context) ([]firewall.Owner, error) { return r.Owners(ctx, "alpha", mode) },
		Delete: func(ctx context.Context, owner firewall.Owner) (bool, error) { return r.DeleteOrphan(ctx, owner, mode) },
	}
}

// planFor plans for a Service with one port, on one node.
func planFor(owner firewall.Owner) (*plan.Plan, error) {
	svc := serviceOf(owner)
	svc.Spec = v1.ServiceSpec{
		Type: v1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.7"}, IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
		Ports: []v1.ServicePort{{Protocol: v1.ProtocolTCP, Port: 80}},
	}
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{v1.LabelOSStable: "linux"}},
		Spec:       v1.NodeSpec{ProviderID: "gce://p/z/n1"},
		Status:     v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.1"}}},
	}
	return plan.Settings{ClusterID: owner.ClusterID, Namespace: system}.Build(plan.Input{
		Service: svc, Options: options.Default(), Cluster: snapshot.New([]*v1.Node{node}, nil, nil, nil),
	})
}

func firstSet(p *plan.Plan) plan.ProxySet {
	return p.ProxySets(plan.AssignPorts(snapshot.PortsOf(p.Service), plan.Assignment{}))[0]
}

func serviceOf(owner firewall.Owner) *v1.Service {
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: owner.Service.Namespace, Name: owner.Service.Name, UID: owner.UID},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer},
	}
}

// remaining lists the existing resources: kind, cluster and UID of the owner.
func (e *environment) remaining(fatal func(...any)) []string {
	var list []string
	for _, rule := range e.firewall.Rules() {
		owner, err := firewall.ParseMark(rule.Description)
		if err != nil {
			fatal(err)
		}
		list = append(list, fmt.Sprintf("rule of %s %s", owner.ClusterID, owner.UID))
	}
	sets, err := e.kube.AppsV1().DaemonSets(system).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		fatal(err)
	}
	maps, err := e.kube.CoreV1().ConfigMaps(system).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		fatal(err)
	}
	mark := func(kind string, o metav1.Object) string {
		return fmt.Sprintf("%s of %s %s", kind, o.GetLabels()[plan.LabelClusterID], o.GetLabels()[plan.LabelServiceUID])
	}
	for _, set := range sets.Items {
		list = append(list, mark("DaemonSet", &set))
	}
	for _, m := range maps.Items {
		list = append(list, mark("ConfigMap", &m))
	}
	services, err := e.kube.CoreV1().Services("").List(context.Background(), metav1.ListOptions{LabelSelector: plan.LabelServiceUID})
	if err != nil {
		fatal(err)
	}
	for _, mirror := range services.Items {
		list = append(list, mark("mirror", &mirror))
	}
	slices.Sort(list)
	return list
}

// all returns what remaining returns while nothing has been deleted.
func all(owners ...firewall.Owner) []string {
	var list []string
	for _, o := range owners {
		for _, kind := range []string{"rule", "DaemonSet", "ConfigMap", "mirror"} {
			list = append(list, fmt.Sprintf("%s of %s %s", kind, o.ClusterID, o.UID))
		}
	}
	slices.Sort(list)
	return list
}

func owner(cluster, name, uid string) firewall.Owner {
	return firewall.Owner{ClusterID: cluster, Service: types.NamespacedName{Namespace: "default", Name: name}, UID: types.UID(uid)}
}

// observation is where a Service exists, and whether the server fails to read it.
type observation struct{ inCache, onServer, serverFails bool }

func TestOnlyOrphansAreDeleted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var owners, stay, broken []firewall.Owner
		services := map[firewall.Owner]observation{}
		for i := range rapid.IntRange(0, 5).Draw(t, "owners") {
			o := owner(rapid.SampledFrom([]string{"alpha", "beta"}).Draw(t, "cluster"), fmt.Sprint("svc", i), fmt.Sprint(i, "-uid"))
			s := observation{rapid.Bool().Draw(t, "in the cache"), rapid.Bool().Draw(t, "on the server"), rapid.IntRange(0, 3).Draw(t, "failure") == 0}
			owners, services[o] = append(owners, o), s
			if o.ClusterID != "alpha" || s != (observation{}) {
				stay = append(stay, o)
			}
			if o.ClusterID == "alpha" && !s.inCache && s.serverFails {
				broken = append(broken, o)
			}
		}
		e := newEnvironment(t.Fatal, owners...)
		e.show(t.Fatal, services)
		err := e.Collect(context.Background())
		if (err != nil) != (len(broken) > 0) {
			t.Errorf("error %v with %d Services that could not be read", err, len(broken))
		}
		if diff := cmp.Diff(all(stay...), e.remaining(t.Fatal)); diff != "" {
			t.Errorf("%v\nremaining (-want +got):\n%s", services, diff)
		}
		if want := len(owners) - len(stay); len(e.recorder.Events) != want {
			t.Errorf("%d events for %d collected Services", len(e.recorder.Events), want)
		}
	})
}

// show creates Services as observed.
func (e *environment) show(fatal func(...any), services map[firewall.Owner]observation) {
	for o, s := range services {
		if s.inCache {
			if err := e.cached.Add(serviceOf(o)); err != nil {
				fatal(err)
			}
		}
		if s.onServer {
			if err := e.kube.Tracker().Add(serviceOf(o)); err != nil {
				fatal(err)
			}
		}
	}
	e.kube.PrependReactor("get", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		name := action.(clienttesting.GetAction).GetName()
		for o, s := range services {
			if o.Service.Name == name && s.serverFails {
				return true, nil, apierrors.NewServiceUnavailable("down")
			}
		}
		return false, nil, nil
	})
}

func TestOrphansOfAnEarlierServiceOfTheSameNameAreDeleted(t *testing.T) {
	old, present := owner("alpha", "web", "1-old"), owner("alpha", "web", "2-new")
	e := newEnvironment(t.Fatal, old, present)
	e.show(t.Fatal, map[firewall.Owner]observation{present: {inCache: true, onServer: true}})
	if err := e.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all(present), e.remaining(t.Fatal)); diff != "" {
		t.Errorf("remaining (-want +got):\n%s", diff)
	}
	event := <-e.recorder.Events
	for _, part := range []string{events.OrphanedResourcesDeleted, "firewall rules, mirror Service, DaemonSet, ConfigMap", "hostport-ccm.io/cleanup"} {
		if !strings.Contains(event, part) {
			t.Errorf("event %q does not contain %q", event, part)
		}
	}
}

func TestInDoubtNothingIsDeleted(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	// Returned by a proxy in front of the API server, or by an API server that is starting.
	stray := apierrors.NewGenericServerResponse(404, "get", v1.Resource("services"), "web", "404 page not found", 0, true)
	for name, inject := range map[string]func(*environment){
		"the firewall cannot be listed": func(e *environment) {
			e.firewall.FailWith(func(method string, _ firewall.Owner) error {
				if method == "Owners" {
					return errors.New("403")
				}
				return nil
			})
		},
		"the firewall rules cannot be deleted": func(e *environment) {
			e.firewall.FailWith(func(method string, _ firewall.Owner) error {
				if method == "Delete" {
					return errors.New("503")
				}
				return nil
			})
		},
		"a 404 that is not about the Service": func(e *environment) {
			e.kube.PrependReactor("get", "services", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, stray })
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnvironment(t.Fatal, gone)
			inject(e)
			if err := e.Collect(t.Context()); err == nil {
				t.Error("no error")
			}
			if diff := cmp.Diff(all(gone), e.remaining(t.Fatal)); diff != "" || len(e.recorder.Events) > 0 {
				t.Errorf("%d events; remaining (-want +got):\n%s", len(e.recorder.Events), diff)
			}
		})
	}
}

func TestObjectsWithoutTheCompleteMarkAreNotDeleted(t *testing.T) {
	e := newEnvironment(t.Fatal, owner("alpha", "web", "1-uid"))
	for _, label := range []string{plan.LabelServiceNamespace, plan.LabelServiceName, plan.LabelServiceUID, plan.LabelClusterID, plan.LabelManagedBy} {
		ds := wantedBy(t, owner("alpha", "other", "3-uid"))
		ds.Name = "without-" + label[strings.LastIndex(label, "/")+1:]
		delete(ds.Labels, label)
		if err := e.store(ds); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	sets, err := e.kube.AppsV1().DaemonSets(system).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(sets.Items) != 5 {
		t.Errorf("%d DaemonSets remain, want the 5 that are not ours; %v", len(sets.Items), err)
	}
}

func TestAMarkedObjectOfAnotherNameIsDeleted(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	e := newEnvironment(t.Fatal, gone)
	copied := wantedBy(t, gone)
	copied.Name = "a-copy"
	if err := e.store(copied); err != nil {
		t.Fatal(err)
	}
	if err := e.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if remaining := e.remaining(t.Fatal); len(remaining) > 0 {
		t.Errorf("remaining: %v", remaining)
	}
}

func TestAForgedMirrorAffectsNoOtherNamespace(t *testing.T) {
	real, forger := owner("alpha", "web", "1-uid"), owner("alpha", "mine", "1-uid")
	forger.Service.Namespace = "evil"
	for name, claimed := range map[string]firewall.Owner{
		"of a Service that exists":                     real,
		"of a Service that is gone":                    owner("alpha", "gone", "2-uid"),
		"of the UID of a Service in another namespace": forger,
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnvironment(t.Fatal, real)
			e.show(t.Fatal, map[firewall.Owner]observation{real: {inCache: true, onServer: true}})
			p, err := planFor(claimed)
			if err != nil {
				t.Fatal(err)
			}
			forged := p.Mirror
			forged.Namespace, forged.Name = "evil", "forged"
			if err := errors.Join(e.cached.Add(forged), e.kube.Tracker().Add(forged)); err != nil {
				t.Fatal(err)
			}
			e.kube.ClearActions()
			if err := e.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			remaining := slices.DeleteFunc(e.remaining(t.Fatal), func(s string) bool { return s == "mirror of alpha 2-uid" })
			if diff := cmp.Diff(all(real), slices.Compact(remaining)); diff != "" {
				t.Errorf("remaining (-want +got):\n%s", diff)
			}
			for _, action := range e.kube.Actions() {
				if action.GetVerb() != "list" && action.GetNamespace() != "evil" && action.GetNamespace() != system {
					t.Errorf("%s %s in namespace %s", action.GetVerb(), action.GetResource().Resource, action.GetNamespace())
				}
			}
		})
	}
}

func wantedBy(t *testing.T, o firewall.Owner) *appsv1.DaemonSet {
	t.Helper()
	p, err := planFor(o)
	if err != nil {
		t.Fatal(err)
	}
	return firstSet(p).DaemonSet
}

// store adds a DaemonSet to the cache and to the server.
func (e *environment) store(ds *appsv1.DaemonSet) error {
	return errors.Join(e.sets.Add(ds), e.kube.Tracker().Add(ds))
}

func TestDeletedOrphansAreReportedOnce(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	e := newEnvironment(t.Fatal, gone)
	for range 2 { // The cache still has the objects the second time.
		if err := e.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(e.recorder.Events) != 1 {
		t.Errorf("%d events, want 1", len(e.recorder.Events))
	}
}

func TestOrphansAreCollectedPeriodically(t *testing.T) {
	e := newEnvironment(t.Fatal, owner("alpha", "web", "1-uid"))
	failures := 3
	e.firewall.FailWith(func(method string, _ firewall.Owner) error {
		if failures--; failures > 0 {
			return errors.New("503")
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.period = 1
		e.Run(ctx, func() bool { return true })
	}()
	<-e.recorder.Events
	cancel()
	<-done
	if remaining := e.remaining(t.Fatal); len(remaining) > 0 {
		t.Errorf("remaining: %v", remaining)
	}
}

func TestNothingIsDeletedBeforeTheCachesHaveSynced(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	e := newEnvironment(t.Fatal, gone)
	ctx, cancel := context.WithCancel(t.Context())
	checks := 0
	e.Run(ctx, func() bool {
		if checks++; checks == 3 {
			cancel()
		}
		return false
	})
	if diff := cmp.Diff(all(gone), e.remaining(t.Fatal)); diff != "" {
		t.Errorf("remaining (-want +got):\n%s", diff)
	}
}

func TestInReportModeObjectsAreDeletedAndRulesAreNot(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	e := newEnvironment(t.Fatal, gone)
	e.kinds[0] = firewallKind(operations.New(e.firewall, operations.MaxParallel, nil), firewall.Report)
	e.show(t.Fatal, map[firewall.Owner]observation{gone: {}})
	if err := e.Collect(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"rule of alpha 1-uid"}, e.remaining(t.Fatal)); diff != "" {
		t.Errorf("remaining (-want +got):\n%s", diff)
	}
}
