package provider

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
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// land is what a collector sees: things made for Services, in a firewall and
// in an API server, and Services in memory.
type land struct {
	*collector
	kube     *fake.Clientset
	firewall *firewall.Fake
	sets     cache.Indexer // DaemonSets in memory
	memory   cache.Indexer // Services in memory
	events   *record.FakeRecorder
}

// newLand holds a firewall rule, a DaemonSet, a ConfigMap and a mirror for each of the
// owners, of whatever cluster.
func newLand(fatal func(...any), owners ...firewall.Owner) *land {
	index := func() cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	fw, sets, maps, services := &firewall.Fake{}, index(), index(), index()
	var stored []runtime.Object
	for _, owner := range owners {
		p, err := plan.Make(plan.Settings{ClusterID: owner.ClusterID, Namespace: system}, withPort(remains(owner)), options.Default(), []*v1.Node{node("n1", "203.0.113.1")})
		if err == nil {
			_, err = fw.Ensure(context.Background(), p.Firewall)
		}
		set := firstSet(p)
		if err := errors.Join(err, sets.Add(set.DaemonSet), maps.Add(set.ConfigMap), services.Add(p.Mirror)); err != nil {
			fatal(err)
		}
		stored = append(stored, set.DaemonSet, set.ConfigMap, p.Mirror)
	}
	l := &land{kube: fake.NewClientset(stored...), firewall: fw, sets: sets, memory: services, events: record.NewFakeRecorder(100)}
	settings := plan.Settings{ClusterID: "alpha", Namespace: system}
	l.collector = newCollector(&loadBalancer{
		settings: settings, kube: l.kube, openings: newOpenings(fw, nil), reporter: newReporter(l.events),
		daemonSets: daemonSetsOf(l.kube, settings, appslisters.NewDaemonSetLister(sets)),
		configMaps: configMapsOf(l.kube, settings, corelisters.NewConfigMapLister(maps)),
		mirrors:    mirrorsOf(l.kube, settings, corelisters.NewServiceLister(l.memory)),
	}, corelisters.NewServiceLister(l.memory))
	return l
}

func withPort(svc *v1.Service) *v1.Service {
	svc.Spec = service("x").Spec
	return svc
}

// left lists for whom something is left, kind by kind.
func (l *land) left(fatal func(...any)) []string {
	var left []string
	for _, rule := range l.firewall.Rules() {
		owner, err := firewall.ParseMark(rule.Description)
		if err != nil {
			fatal(err)
		}
		left = append(left, fmt.Sprintf("rule of %s %s", owner.ClusterID, owner.UID))
	}
	sets, err := l.kube.AppsV1().DaemonSets(system).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		fatal(err)
	}
	maps, err := l.kube.CoreV1().ConfigMaps(system).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		fatal(err)
	}
	mark := func(kind string, o metav1.Object) string {
		return fmt.Sprintf("%s of %s %s", kind, o.GetLabels()[plan.LabelClusterID], o.GetLabels()[plan.LabelServiceUID])
	}
	for _, set := range sets.Items {
		left = append(left, mark("DaemonSet", &set))
	}
	for _, m := range maps.Items {
		left = append(left, mark("ConfigMap", &m))
	}
	services, err := l.kube.CoreV1().Services("").List(context.Background(), metav1.ListOptions{LabelSelector: plan.LabelServiceUID})
	if err != nil {
		fatal(err)
	}
	for _, mirror := range services.Items {
		left = append(left, mark("mirror", &mirror))
	}
	slices.Sort(left)
	return left
}

// all is what left returns while nothing has been removed.
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

// sighting is what there is to see of a Service.
type sighting struct{ inMemory, onServer, serverFails bool }

func TestOnlyWhatBelongsToNobodyIsCollected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var owners, stay, broken []firewall.Owner
		services := map[firewall.Owner]sighting{}
		for i := range rapid.IntRange(0, 5).Draw(t, "things") {
			o := owner(rapid.SampledFrom([]string{"alpha", "beta"}).Draw(t, "cluster"), fmt.Sprint("svc", i), fmt.Sprint(i, "-uid"))
			s := sighting{rapid.Bool().Draw(t, "in memory"), rapid.Bool().Draw(t, "on the server"), rapid.IntRange(0, 3).Draw(t, "trouble") == 0}
			owners, services[o] = append(owners, o), s
			if o.ClusterID != "alpha" || s != (sighting{}) {
				stay = append(stay, o)
			}
			if o.ClusterID == "alpha" && !s.inMemory && s.serverFails {
				broken = append(broken, o)
			}
		}
		l := newLand(t.Fatal, owners...)
		l.show(t.Fatal, services)
		err := l.collect(context.Background())
		if (err != nil) != (len(broken) > 0) {
			t.Errorf("error %v with %d Services that could not be looked at", err, len(broken))
		}
		if diff := cmp.Diff(all(stay...), l.left(t.Fatal)); diff != "" {
			t.Errorf("%v\nleft (-want +got):\n%s", services, diff)
		}
		if want := len(owners) - len(stay); len(l.events.Events) != want {
			t.Errorf("%d events for %d collected Services", len(l.events.Events), want)
		}
	})
}

// show puts Services where they are to be seen.
func (l *land) show(fatal func(...any), services map[firewall.Owner]sighting) {
	for o, s := range services {
		if s.inMemory {
			if err := l.memory.Add(remains(o)); err != nil {
				fatal(err)
			}
		}
		if s.onServer {
			if err := l.kube.Tracker().Add(remains(o)); err != nil {
				fatal(err)
			}
		}
	}
	l.kube.PrependReactor("get", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		name := action.(clienttesting.GetAction).GetName()
		for o, s := range services {
			if o.Service.Name == name && s.serverFails {
				return true, nil, apierrors.NewServiceUnavailable("down")
			}
		}
		return false, nil, nil
	})
}

func TestWhatANamesakeLeftBehindIsCollected(t *testing.T) {
	old, present := owner("alpha", "web", "1-old"), owner("alpha", "web", "2-new")
	l := newLand(t.Fatal, old, present)
	l.show(t.Fatal, map[firewall.Owner]sighting{present: {inMemory: true, onServer: true}})
	if err := l.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all(present), l.left(t.Fatal)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	event := <-l.events.Events
	for _, part := range []string{reasonLeftoversRemoved, "firewall rules, mirror Service, DaemonSet, ConfigMap", "hostport-ccm.io/cleanup"} {
		if !strings.Contains(event, part) {
			t.Errorf("event %q lacks %q", event, part)
		}
	}
}

func TestInDoubtNothingIsCollected(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	// What a proxy in front of the API server says, or one that is starting.
	stray := apierrors.NewGenericServerResponse(404, "get", v1.Resource("services"), "web", "404 page not found", 0, true)
	for name, spoil := range map[string]func(*land){
		"the firewall cannot be listed": func(l *land) {
			l.firewall.FailWith(func(method string, _ firewall.Owner) error {
				if method == "Owners" {
					return errors.New("403")
				}
				return nil
			})
		},
		"the firewall cannot be closed": func(l *land) {
			l.firewall.FailWith(func(method string, _ firewall.Owner) error {
				if method == "Delete" {
					return errors.New("503")
				}
				return nil
			})
		},
		"a 404 that is not about the Service": func(l *land) {
			l.kube.PrependReactor("get", "services", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, stray })
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLand(t.Fatal, gone)
			spoil(l)
			if err := l.collect(t.Context()); err == nil {
				t.Error("no error")
			}
			if diff := cmp.Diff(all(gone), l.left(t.Fatal)); diff != "" || len(l.events.Events) > 0 {
				t.Errorf("%d events; left (-want +got):\n%s", len(l.events.Events), diff)
			}
		})
	}
}

func TestObjectsWithoutTheWholeMarkAreNotCollected(t *testing.T) {
	l := newLand(t.Fatal, owner("alpha", "web", "1-uid"))
	for _, label := range []string{plan.LabelServiceNamespace, plan.LabelServiceName, plan.LabelServiceUID, plan.LabelClusterID, plan.LabelManagedBy} {
		ds := wantedBy(t, owner("alpha", "other", "3-uid"))
		ds.Name = "without-" + label[strings.LastIndex(label, "/")+1:]
		delete(ds.Labels, label)
		if err := l.keep(ds); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	sets, err := l.kube.AppsV1().DaemonSets(system).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(sets.Items) != 5 {
		t.Errorf("%d DaemonSets are left, want the 5 that are not ours; %v", len(sets.Items), err)
	}
}

func TestAMarkedObjectOfAnotherNameIsCollected(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	l := newLand(t.Fatal, gone)
	copied := wantedBy(t, gone)
	copied.Name = "a-copy-made-by-hand"
	if err := l.keep(copied); err != nil {
		t.Fatal(err)
	}
	if err := l.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := l.left(t.Fatal); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func wantedBy(t *testing.T, o firewall.Owner) *appsv1.DaemonSet {
	t.Helper()
	p, err := plan.Make(plan.Settings{ClusterID: o.ClusterID, Namespace: system}, withPort(remains(o)), options.Default(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return firstSet(p).DaemonSet
}

// keep stores a DaemonSet where the collector's memory and the server have it.
func (l *land) keep(ds *appsv1.DaemonSet) error {
	return errors.Join(l.sets.Add(ds), l.kube.Tracker().Add(ds))
}

func TestWhatIsGoneAlreadyIsNoNews(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	l := newLand(t.Fatal, gone)
	for range 2 { // Memory still has the objects the second time.
		if err := l.collect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.events.Events) != 1 {
		t.Errorf("%d events, want 1", len(l.events.Events))
	}
}

func TestServicesRemovedByForceWhileWeWereDownAreCollectedAtTheStart(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web"))
	c.serve(service("kept", tcp(81)))
	stop()
	theirs := firewall.Rule{Name: "hostport-theirs", Description: firewall.FormatMark(owner("beta", "web", "web-uid"))}
	c.firewall.SetRule(theirs)
	if err := c.kube.Tracker().Delete(v1.SchemeGroupVersion.WithResource("services"), "default", "web"); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.eventually("nothing is left of the Service", func() bool {
		return c.daemonSet("web") == nil && c.configMap("web") == nil && !c.isOpen("web")
	})
	c.eventually("an event tells of it", func() bool { return c.hasEvent("Normal", reasonLeftoversRemoved, "web:") })
	if c.daemonSet("kept") == nil || c.configMap("kept") == nil || !c.isOpen("kept") {
		t.Error("a Service that is there lost something")
	}
	if diff := cmp.Diff(theirs, c.firewall.Rules()[theirs.Name]); diff != "" {
		t.Errorf("another cluster's rule (-want +got):\n%s", diff)
	}
}

func TestLeftoversAreLookedForAgainAndAgain(t *testing.T) {
	l := newLand(t.Fatal, owner("alpha", "web", "1-uid"))
	failures := 3
	l.firewall.FailWith(func(method string, _ firewall.Owner) error {
		if failures--; failures > 0 {
			return errors.New("503")
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, func() bool { return true }, 1)
	}()
	<-l.events.Events
	cancel()
	<-done
	if left := l.left(t.Fatal); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestNothingIsCollectedBeforeMemoryIsFilled(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	l := newLand(t.Fatal, gone)
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	l.run(ctx, func() bool {
		if asked++; asked == 3 {
			cancel()
		}
		return false
	}, 1)
	if diff := cmp.Diff(all(gone), l.left(t.Fatal)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestInReportModeObjectsAreCollectedAndRulesAreNot(t *testing.T) {
	gone := owner("alpha", "web", "1-uid")
	l := newLand(t.Fatal, gone)
	l.kinds[0] = newOpenings(l.firewall, nil).leftovers("alpha", options.FirewallReport)
	l.show(t.Fatal, map[firewall.Owner]sighting{gone: {}})
	if err := l.collect(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"rule of alpha 1-uid"}, l.left(t.Fatal)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}
