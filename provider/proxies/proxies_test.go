package proxies

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

const system = "hostport-system"

func tcp(port int32) snapshot.Port { return snapshot.Port{Protocol: v1.ProtocolTCP, Number: port} }

func testService(ports ...int32) *v1.Service {
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web-uid"},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.7"}},
	}
	for _, port := range ports {
		svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Protocol: v1.ProtocolTCP, Port: port})
	}
	return svc
}

func TestAPortIsAssignedOnceWithAStaleCache(t *testing.T) {
	settings := plan.Settings{ClusterID: "alpha", Namespace: system}
	planned := func(ports ...int32) *plan.Plan {
		p, err := settings.Build(plan.Input{Service: testService(ports...), Options: options.Default(), Cluster: snapshot.New(nil, nil, nil, nil)})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	daemonSets := func(assigned plan.Assignment) (list []*appsv1.DaemonSet) {
		for _, set := range planned(80, 443, 8443).ProxySets(assigned) {
			if set.DaemonSet != nil {
				list = append(list, set.DaemonSet)
			}
		}
		return list
	}
	first, second, both := plan.Assignment{{tcp(80)}}, plan.Assignment{nil, {tcp(443)}}, plan.Assignment{{tcp(80)}, {tcp(443)}}
	for name, c := range map[string]struct {
		cached, stored plan.Assignment
		ports          []int32
		want           plan.Assignment
	}{
		"the cache is current":                                     {both, both, []int32{80, 443}, both},
		"the second set was just created":                          {first, both, []int32{80, 443}, both},
		"the second set was just created, and another port is new": {first, both, []int32{80, 443, 8443}, plan.Assignment{{tcp(80)}, {tcp(443)}, {tcp(8443)}}},
		"the first set was just created":                           {plan.Assignment{}, first, []int32{80, 443}, both},
		"the first set was just deleted":                           {both, second, []int32{80, 443, 8443}, plan.Assignment{{tcp(80), tcp(8443)}, {tcp(443)}}},
		"the second set was just deleted with its port":            {both, first, []int32{80}, first},
	} {
		t.Run(name, func(t *testing.T) {
			cached := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
			for _, ds := range daemonSets(c.cached) {
				if err := cached.Add(ds); err != nil {
					t.Fatal(err)
				}
			}
			kube, svc := fake.NewClientset(), testService(80)
			m := &Manager{DaemonSets: objects.DaemonSets(kube, settings, appslisters.NewDaemonSetLister(cached), nil)}
			// What the cache has besides was deleted, and what it lacks was created since.
			for _, ds := range daemonSets(c.stored) {
				var err error
				if _, isCached := m.DaemonSets.Cached(svc, ds.Name); isCached {
					err = kube.Tracker().Add(ds)
				} else {
					_, _, err = m.DaemonSets.Ensure(t.Context(), svc, ds)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got, err := m.assignPorts(t.Context(), svc, planned(c.ports...))
			if err != nil || !got.Equal(c.want) {
				t.Errorf("assigned as %v, want %v (%v)", got, c.want, err)
			}
		})
	}
}

func TestHeldNodesAreThoseOfTheDaemonSetsAndOfTheirPods(t *testing.T) {
	linux := func(name string, taints ...v1.Taint) *v1.Node {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelOSStable: "linux"}}, Spec: v1.NodeSpec{Taints: taints}}
	}
	noSchedule := v1.Taint{Key: "x", Effect: v1.TaintEffectNoSchedule}
	nodes := []*v1.Node{linux("n1"), linux("tainted", noSchedule), linux("tainted-later", noSchedule), {ObjectMeta: metav1.ObjectMeta{Name: "windows"}}}
	settings := plan.Settings{ClusterID: "alpha", Namespace: system}
	svc := testService(80)
	p, err := settings.Build(plan.Input{Service: svc, Options: options.Default(), Cluster: snapshot.New(nodes, nil, nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	ds := p.ProxySets(plan.Assignment{{tcp(80)}})[0].DaemonSet
	daemonSets := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, indexers)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "p", Labels: ds.Spec.Template.Labels}, Spec: ds.Spec.Template.Spec}
	pod.Spec.NodeName = "tainted-later"
	if err := errors.Join(daemonSets.Add(ds), pods.Add(pod)); err != nil {
		t.Fatal(err)
	}
	m := &Manager{DaemonSets: objects.DaemonSets(fake.NewClientset(), settings, appslisters.NewDaemonSetLister(daemonSets), nil), pods: pods}
	if diff := cmp.Diff(map[string]bool{"n1": true, "tainted-later": true}, m.Held(svc, tcp(80), nodes)); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if got := m.Held(svc, tcp(81), nodes); len(got) > 0 {
		t.Errorf("another port is held on %v", got)
	}
}

func TestAPodThatHasEndedIsNobodysProxy(t *testing.T) {
	svc, other := testService(80), testService(80)
	other.UID = "other-uid"
	m := &Manager{pods: cache.NewIndexer(cache.MetaNamespaceKeyFunc, indexers)}
	for name, phase := range map[string]v1.PodPhase{"running": v1.PodRunning, "failed": v1.PodFailed, "completed": v1.PodSucceeded} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name, Labels: map[string]string{plan.LabelServiceUID: string(svc.UID)}}}
		pod.Spec.NodeName = "on-" + name
		pod.Spec.Containers = []v1.Container{{Ports: []v1.ContainerPort{{HostPort: 80, Protocol: v1.ProtocolTCP}}}}
		pod.Status.Phase = phase
		pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
		if err := m.pods.Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	served := m.ServedPorts(svc)
	for what, n := range map[string]int{
		"pods of the Service": len(m.Pods(svc)), "pods of all Services": len(m.AllPods()), "nodes that serve": len(served),
		"pods with another Service's port": len(m.OthersWithPortsOf(other)[tcp(80)]), "ended pods, less one": len(m.Ended(svc)) - 1,
	} {
		if n != 1 {
			t.Errorf("%s: %d", what, n)
		}
	}
	if !served["on-running"][tcp(80)] {
		t.Errorf("served: %v", served)
	}
}
