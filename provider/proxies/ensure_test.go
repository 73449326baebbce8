package proxies

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// reloadWorld has reloads of pods whose patches take some time, and counts them.
type reloadWorld struct {
	*reloads
	mu      sync.Mutex
	pods    []*v1.Pod
	patches []string
}

func newReloadWorld(t *testing.T, pods int, took time.Duration) *reloadWorld {
	kube := fake.NewClientset()
	w := &reloadWorld{reloads: newReloads(kube)}
	for i := range pods {
		w.pods = append(w.pods, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: fmt.Sprint("p", i)}})
	}
	kube.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		time.Sleep(took)
		w.mu.Lock()
		defer w.mu.Unlock()
		name := action.(clienttesting.PatchAction).GetName()
		w.patches = append(w.patches, name)
		for i, pod := range w.pods {
			if pod.Name == name {
				w.pods[i] = pod.DeepCopy()
				metav1.SetMetaDataAnnotation(&w.pods[i].ObjectMeta, plan.AnnotationConfigChanged, time.Now().Format(time.RFC3339Nano))
			}
		}
		return true, nil, nil
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	return w
}

func (w *reloadWorld) list() []*v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*v1.Pod(nil), w.pods...)
}

// take returns how many patches there were since it was last called.
func (w *reloadWorld) take() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.patches)
	w.patches = nil
	return n
}

func TestPodsAreTouchedAgainIfTheyWereTouchedSoon(t *testing.T) {
	for name, tc := range map[string]struct {
		took        time.Duration
		first, then int
	}{
		"all at once":            {0, 3, 3},
		"some before touchAgain": {touchAgain * 2 / 3, 1, 3},
		"none again":             {touchAgain, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newReloadWorld(t, 3, tc.took)
				w.request("set", w.list)
				time.Sleep(touchAgain - time.Millisecond)
				if n := w.take(); n != tc.first {
					t.Errorf("%d patches at first, want %d", n, tc.first)
				}
				time.Sleep(selfReload)
				if n := w.take(); n != tc.then {
					t.Errorf("%d patches later, want %d", n, tc.then)
				}
				if len(w.bySet) > 0 {
					t.Errorf("reloads remain: %v", w.bySet)
				}
			})
		})
	}
}

func TestALaterChangeReplacesAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReloadWorld(t, 100, 100*time.Millisecond)
		for range 20 {
			w.request("set", w.list)
			time.Sleep(time.Second / 2)
		}
		if n := w.take(); n > 100 {
			t.Errorf("%d patches in 10 seconds", n)
		}
		time.Sleep(selfReload)
		// 30 pods are touched within touchAgain, and again after all others.
		if n := w.take(); n < 100 || n > 140 {
			t.Errorf("%d patches after the last change, want 130 or so", n)
		}
	})
}

func TestReloadsEndWhenKubeletsHaveReloadedAnyway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReloadWorld(t, 1000, 100*time.Millisecond)
		w.request("set", w.list)
		time.Sleep(10 * selfReload)
		if n := w.take(); n > int(selfReload/(100*time.Millisecond))+1 {
			t.Errorf("%d patches", n)
		}
	})
}

func TestNewPodsAreNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReloadWorld(t, 2, 0)
		w.pods[1].CreationTimestamp = metav1.NewTime(time.Now().Add(time.Second))
		w.request("set", w.list)
		if n := w.take(); n != 1 {
			t.Errorf("%d patches", n)
		}
	})
}

// Pods of a set that was deleted meanwhile need no config.
func TestADeletedSetIsNotTouchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReloadWorld(t, 2, 0)
		w.request("set", w.list)
		first := w.take()
		w.mu.Lock()
		w.pods = nil
		w.mu.Unlock()
		time.Sleep(touchAgain)
		if diff := cmp.Diff([]int{2, 0}, []int{first, w.take()}); diff != "" {
			t.Errorf("patches (-want +got):\n%s", diff)
		}
	})
}
