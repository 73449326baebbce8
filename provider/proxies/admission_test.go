package proxies

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	appslisters "k8s.io/client-go/listers/apps/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/internal/apitest"
	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// queue records for when Services are enqueued.
type queue struct{ next time.Duration }

func (q *queue) EnqueueAfter(_ types.NamespacedName, d time.Duration) { q.next = d }

// refusing is an API server that refuses pods, and one Service's DaemonSet there.
type refusing struct {
	*testing.T
	*Manager
	kube       *fake.Clientset
	daemonSets cache.Indexer
	queue      *queue
	// reason is why pods are refused; nil: they are admitted.
	reason error
	tries  int
}

func newRefusing(t *testing.T) *refusing {
	r := &refusing{T: t, kube: apitest.NewClientset(), queue: &queue{},
		daemonSets: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})}
	r.kube.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if !slices.Equal(action.(clienttesting.CreateActionImpl).CreateOptions.DryRun, []string{metav1.DryRunAll}) {
			t.Error("a pod is created")
		}
		r.tries++
		return r.reason != nil, nil, r.reason
	})
	settings := plan.Settings{ClusterID: "alpha", Namespace: system}
	r.Manager = &Manager{kube: r.kube, queue: r.queue, settings: settings, DaemonSets: objects.DaemonSets(r.kube, settings, appslisters.NewDaemonSetLister(r.daemonSets), r.queue)}
	return r
}

// wanted returns the DaemonSet of a Service with this priority class.
func (r *refusing) wanted(class string) *appsv1.DaemonSet {
	o := options.Default()
	o.PriorityClassName = class
	p, err := r.settings.Build(plan.Input{Service: testService(80), Options: o, Cluster: snapshot.New(nil, nil, nil, nil)})
	if err != nil {
		r.Fatal(err)
	}
	return p.ProxySets(plan.Assignment{{tcp(80)}})[0].DaemonSet
}

// apply applies the DaemonSet with a priority class, and lets the cache have it with these numbers
// of pods. It returns the class that the DaemonSet has, and the error.
func (r *refusing) apply(class string, desired, current int32) (string, error) {
	r.Helper()
	ds, err := r.applyDaemonSet(r.Context(), testService(80), r.wanted(class))
	if notCreated := (*NotCreatedError)(nil); err != nil && !errors.As(err, &notCreated) {
		r.Fatal(err)
	}
	ds = ds.DeepCopy()
	ds.Status.DesiredNumberScheduled, ds.Status.CurrentNumberScheduled = desired, current
	if err := r.daemonSets.Update(ds); err != nil {
		r.Fatal(err)
	}
	return ds.Spec.Template.Spec.PriorityClassName, err
}

func (r *refusing) wantApplied(want string, got string, err error) {
	r.Helper()
	if got != want || err != nil {
		r.Errorf("the DaemonSet has class %q, want %q (%v)", got, want, err)
	}
}

func TestProxiesAreNotReplacedByOnesThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRefusing(t)
		class, err := r.apply("a", 2, 2)
		r.wantApplied("a", class, err)
		if r.tries > 0 {
			t.Error("a new DaemonSet, which replaces nothing, was tried")
		}
		r.reason = forbidden("no PriorityClass with name b was found")
		for _, at := range []time.Duration{0, time.Second, firstRetry - time.Second} {
			class, err = r.apply("b", 2, 2)
			if class != "a" || err == nil || !strings.Contains(err.Error(), "no PriorityClass with name b was found") {
				t.Fatalf("the DaemonSet has class %q (%v)", class, err)
			}
			if want := 1; r.tries != want || r.queue.next <= 0 || r.queue.next > firstRetry {
				t.Errorf("%s: %d tries, the next in %s", at, r.tries, r.queue.next)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(firstRetry)
		if r.apply("b", 2, 2); r.tries != 2 || r.queue.next != 2*firstRetry {
			t.Errorf("%d tries, the next in %s", r.tries, r.queue.next)
		}
		// Another template is tried at once.
		r.reason = nil
		class, err = r.apply("c", 2, 2)
		r.wantApplied("c", class, err)
		if class, err = r.apply("c", 2, 2); r.tries != 3 {
			t.Errorf("%d tries", r.tries)
		}
		r.wantApplied("c", class, err)
	})
}

func TestAChangeGoesOnWhereTheAPIServerCannotSay(t *testing.T) {
	for name, reason := range map[string]error{
		"hostport-ccm may not create pods": status(403, `pods is forbidden: User "x" cannot create resource "pods"`),
		"no answer":                        errors.New("connection refused"),
		"the replaced pod makes room":      forbidden("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRefusing(t)
			r.apply("", 2, 2)
			r.reason = reason
			ds := r.wanted("")
			ds.Annotations[plan.AnnotationSpecHash], ds.Spec.Template.Spec.EnableServiceLinks = "changed", nil
			got, err := r.applyDaemonSet(t.Context(), testService(80), ds)
			if err != nil || got.Annotations[plan.AnnotationSpecHash] != "changed" {
				t.Errorf("not changed: %v", err)
			}
		})
	}
}

func TestMissingProxiesAreExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRefusing(t)
		r.reason = forbidden("maximum cpu usage per Container is 250m, but limit is 500m")
		r.apply("a", 3, 1)
		// The DaemonSet controller may be just about to create them.
		if _, err := r.apply("a", 3, 1); err != nil || r.tries > 0 || r.queue.next != missingPeriod {
			t.Errorf("%d tries, the next in %s (%v)", r.tries, r.queue.next, err)
		}
		time.Sleep(missingPeriod)
		_, err := r.apply("a", 3, 1)
		if err == nil || !strings.Contains(err.Error(), "250m") || !strings.Contains(err.Error(), "2 of 3 nodes have none") {
			t.Errorf("got %v", err)
		}
		if _, err := r.apply("a", 3, 1); err == nil || r.tries != 1 {
			t.Errorf("%d tries (%v)", r.tries, err)
		}
		// The DaemonSet controller, which waits longer and longer, is made to try at once.
		r.reason = nil
		time.Sleep(firstRetry)
		_, err = r.apply("a", 3, 1)
		live, getErr := r.kube.AppsV1().DaemonSets(system).Get(t.Context(), plan.Name(testService(80)), metav1.GetOptions{})
		if err != nil || getErr != nil || live.Annotations[admittedAnnotation] == "" {
			t.Errorf("annotations %v (%v, %v)", live.Annotations, err, getErr)
		}
		r.apply("a", 3, 3)
		if _, err := r.apply("a", 3, 3); err != nil {
			t.Error(err)
		}
	})
}

func TestARolloutThatIsRefusedMidwayGoesBack(t *testing.T) {
	for name, c := range map[string]struct {
		refused []string
		want    string
		words   string
	}{
		"the new proxies are refused": {[]string{"b"}, "a", "goes back"},
		"all proxies are refused":     {[]string{"a", "b"}, "b", "1 of 3 nodes have none"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRefusing(t)
				r.apply("a", 3, 3)
				r.apply("b", 3, 3)
				r.apply("b", 3, 2) // A proxy was deleted.
				r.apply("b", 3, 2)
				time.Sleep(missingPeriod)
				r.kube.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
					class := action.(clienttesting.CreateActionImpl).Object.(*v1.Pod).Spec.PriorityClassName
					return slices.Contains(c.refused, class), nil, forbidden("no PriorityClass with name " + class + " was found")
				})
				_, err := r.apply("b", 3, 2)
				live, getErr := r.kube.AppsV1().DaemonSets(system).Get(t.Context(), plan.Name(testService(80)), metav1.GetOptions{})
				if getErr != nil || live.Spec.Template.Spec.PriorityClassName != c.want {
					t.Errorf("the DaemonSet has class %q, want %q (%v)", live.Spec.Template.Spec.PriorityClassName, c.want, getErr)
				}
				if err == nil || !strings.Contains(err.Error(), "no PriorityClass with name b was found") || !strings.Contains(err.Error(), c.words) {
					t.Errorf("got %v", err)
				}
				// It stays so, and is not changed again until the new proxies are admitted.
				live.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 3, CurrentNumberScheduled: 2}
				if err := r.daemonSets.Update(live); err != nil {
					t.Fatal(err)
				}
				if class, err := r.apply("b", 3, 2); class != c.want || err == nil {
					t.Errorf("afterwards the DaemonSet has class %q (%v)", class, err)
				}
			})
		})
	}
}

func TestMissingProxiesThatWouldBeAdmittedAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRefusing(t)
		r.apply("a", 3, 2)
		for _, wait := range []time.Duration{missingPeriod, firstRetry} {
			if _, err := r.apply("a", 3, 2); err != nil {
				t.Fatal(err)
			}
			time.Sleep(wait)
		}
		if _, err := r.apply("a", 3, 2); err == nil || !strings.Contains(err.Error(), "describe daemonset") {
			t.Errorf("got %v", err)
		}
	})
}

func TestATriedPodIsOneOfTheDaemonSet(t *testing.T) {
	ds := newRefusing(t).wanted("a")
	ds.UID = "ds-uid"
	pod := podOf(ds)
	owner := metav1.GetControllerOf(pod)
	if len(plan.PodsIn(ds, []*v1.Pod{pod})) == 0 || owner == nil || owner.UID != ds.UID || owner.BlockOwnerDeletion != nil || pod.Spec.PriorityClassName != "a" {
		t.Errorf("got %v", pod)
	}
	if pod.Spec.Containers[0].Ports[0] != (v1.ContainerPort{Name: "tcp-80", Protocol: v1.ProtocolTCP, ContainerPort: 80, HostPort: 80}) {
		t.Errorf("got ports %v", pod.Spec.Containers[0].Ports)
	}
}
