package proxies

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

const (
	// ReloadQPS and ReloadBurst are the rate of the requests that make kubelets update proxies' configs.
	ReloadQPS, ReloadBurst = 20, 20

	// touchAgain is after how long pods are touched again that were touched sooner. The kubelet learns of
	// pods and ConfigMaps from separate watches: if it sees the pod first, it reads the old config.
	touchAgain = 3 * time.Second
	// selfReload is after how long kubelets update the config by themselves, about.
	selfReload = time.Minute
)

// reloads make kubelets update the configs of proxies soon. This takes a request per pod, so it has a
// client of its own with a low rate, and nothing waits for it. Each proxy set has one reload at a time; a
// later change of its config replaces it.
type reloads struct {
	kube  kubernetes.Interface
	queue workqueue.TypedDelayingInterface[string]

	mu sync.Mutex
	// bySet are the reloads that have not ended, by the name of the set.
	bySet map[string]reload
}

type reload struct {
	// changed is when the ConfigMap was changed.
	changed time.Time
	// pods returns the proxies of the set.
	pods func() []*v1.Pod
}

func newReloads(kube kubernetes.Interface) *reloads {
	return &reloads{kube: kube, queue: workqueue.NewTypedDelayingQueue[string](), bySet: map[string]reload{}}
}

// request requests a reload of a set whose ConfigMap has just been changed.
func (r *reloads) request(set string, pods func() []*v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bySet[set] = reload{time.Now(), pods}
	r.queue.Add(set)
}

// run runs requested reloads until ctx is done. The kubelets do without those that remain.
func (r *reloads) run(ctx context.Context) {
	context.AfterFunc(ctx, r.queue.ShutDown)
	for {
		set, quit := r.queue.Get()
		if quit {
			return
		}
		r.reload(ctx, set)
		r.queue.Done(set)
	}
}

// reload touches the pods of a set that may not have read the config since its change: all of them the
// first time; and from touchAgain after the change on, those that were touched before that.
func (r *reloads) reload(ctx context.Context, set string) {
	current, began := r.of(set), time.Now()
	changed := current.changed
	for _, pod := range current.pods() {
		if !r.of(set).changed.Equal(changed) || ctx.Err() != nil {
			return // Another reload of the set follows, or none is needed.
		}
		if time.Since(changed) >= selfReload {
			break
		}
		if !pod.CreationTimestamp.After(changed) && !touchedSince(pod, changed.Add(touchAgain)) {
			r.touch(ctx, pod)
		}
	}
	if second := changed.Add(touchAgain); began.Before(second) {
		r.queue.AddAfter(set, time.Until(second))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bySet[set].changed.Equal(changed) {
		delete(r.bySet, set)
	}
}

func (r *reloads) of(set string) reload {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bySet[set]
}

func touchedSince(pod *v1.Pod, t time.Time) bool {
	touched, err := time.Parse(time.RFC3339Nano, pod.Annotations[plan.AnnotationConfigChanged])
	return err == nil && !touched.Before(t)
}

// touch annotates a pod: a kubelet updates a pod's volumes at once when the pod changes. Without it the pod follows a change more slowly, so a failure is logged only.
func (r *reloads) touch(ctx context.Context, pod *v1.Pod) {
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{ // Strings only: never an error.
		"annotations": map[string]string{plan.AnnotationConfigChanged: time.Now().UTC().Format(time.RFC3339Nano)},
	}})
	_, err := r.kube.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "A proxy will read its new config within a minute only", "pod", klog.KObj(pod))
	}
}
