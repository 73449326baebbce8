package proxies

import (
	"context"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

const (
	// missingPeriod is how long a DaemonSet may lack pods before the API server is asked why.
	missingPeriod = 3 * time.Second
	// firstRetry and maxRetry are after how long the API server is asked again. The time doubles.
	firstRetry = 15 * time.Second
	maxRetry   = 2 * time.Minute
	// dryRunTimeout is less than the API server gives a webhook. A worker waits meanwhile.
	dryRunTimeout = 5 * time.Second
)

// trials remembers, by DaemonSet, what the API server answered to dry runs.
type trials struct{ byName sync.Map }

// trial is what is known of one DaemonSet's pods.
type trial struct {
	// missing is since when pods have been missing, if so.
	missing time.Time
	// spec is the plan.AnnotationSpecHash of the pods tried last, at is when.
	spec  string
	at    time.Time
	retry time.Duration
	words string
	// refused reports whether the API server refused them, with these words.
	refused bool
	// previous is the DaemonSet as it was before a rollout that has not ended.
	previous *appsv1.DaemonSet
}

func (t *trials) of(name string) trial {
	if known, found := t.byName.Load(name); found {
		return known.(trial)
	}
	return trial{}
}

func (t *trials) set(name string, known trial) { t.byName.Store(name, known) }

func (t *trials) forget(name string) { t.byName.Delete(name) }

// applyDaemonSet makes the DaemonSet of a Service as wanted. Before running proxies are replaced, the
// API server is asked by a dry run whether it would admit the new ones: the DaemonSet controller
// deletes first, so a node would be left without. If they are refused, or the API server has refused
// pods of the DaemonSet as it is, there is a *NotCreatedError beside the DaemonSet.
func (m *Manager) applyDaemonSet(ctx context.Context, svc *v1.Service, want *appsv1.DaemonSet) (*appsv1.DaemonSet, error) {
	at := want.Namespace + "/" + want.Name
	have, found := m.DaemonSets.Cached(svc, want.Name)
	if found && plan.ReplacesProxies(have, want) {
		candidate := have.DeepCopy()
		candidate.Annotations, candidate.Spec.Template = want.Annotations, want.Spec.Template
		if t := m.try(ctx, svc, candidate, &have.Spec.Template.Spec); t.refused {
			return have, refusedError("the changed proxies of DaemonSet "+at, t.words, "the Service keeps the proxies that it has")
		}
		m.trials.set(want.Name, trial{previous: have})
	}
	ds, _, err := m.DaemonSets.Ensure(ctx, svc, want)
	if words, refused := refusal(err); refused {
		m.queue.EnqueueAfter(nameOf(svc), firstRetry)
		if ds = have; !found {
			ds = want
		}
		return ds, refusedError("DaemonSet "+at, words, "the Service keeps the proxies that it has, if any")
	}
	if err != nil {
		return ds, err
	}
	return ds, m.explainMissing(ctx, svc, ds)
}

// explainMissing returns a *NotCreatedError if a DaemonSet has lacked pods for some seconds.
func (m *Manager) explainMissing(ctx context.Context, svc *v1.Service, ds *appsv1.DaemonSet) error {
	missing, t := plan.Missing(ds), m.trials.of(ds.Name)
	switch {
	case plan.RolledOut(ds) && missing <= 0:
		m.trials.forget(ds.Name)
		return nil
	case missing <= 0:
		m.trials.set(ds.Name, trial{previous: t.previous})
		return nil
	}
	if t.missing.IsZero() {
		t.missing = time.Now()
		m.trials.set(ds.Name, t)
	}
	if rest := missingPeriod - time.Since(t.missing); rest > 0 {
		m.queue.EnqueueAfter(nameOf(svc), rest)
		return nil
	}
	refusedBefore := t.refused
	t = m.try(ctx, svc, ds, nil)
	at, nodes := ds.Namespace+"/"+ds.Name, fmt.Sprintf("%d of %d nodes have none", missing, ds.Status.DesiredNumberScheduled)
	switch {
	case t.refused && m.goBack(ctx, svc, ds, t.previous):
		return refusedError("the changed proxies of DaemonSet "+at, t.words, nodes+", and the Service goes back to the proxies that it had")
	case t.refused:
		return refusedError("proxies of DaemonSet "+at, t.words, nodes)
	case refusedBefore:
		m.requeue(ctx, ds)
	case time.Since(t.missing) >= firstRetry:
		return &NotCreatedError{cause: "unknown", message: fmt.Sprintf(
			"proxies of DaemonSet %s are not created, %s: see the events of kubectl -n %s describe daemonset %s", at, nodes, ds.Namespace, ds.Name)}
	}
	return nil
}

// goBack undoes a rollout whose pods are refused, if the API server would admit those from before. It
// reports whether it does. What was refused is tried again as any change is.
func (m *Manager) goBack(ctx context.Context, svc *v1.Service, ds, previous *appsv1.DaemonSet) bool {
	if previous == nil || plan.RolledOut(ds) || m.ask(ctx, podOf(previous)) != nil {
		return false
	}
	if _, _, err := m.DaemonSets.Ensure(ctx, svc, previous); err != nil {
		klog.FromContext(ctx).Error(err, "A rollout that cannot continue is not undone", "daemonSet", klog.KObj(ds))
		return false
	}
	return true
}

// try asks the API server by a dry run whether it would admit a pod of a DaemonSet, and enqueues the
// Service for when to ask again. Until then the answer is the same. replaces is the pod that makes
// room for it in quotas, or nil.
func (m *Manager) try(ctx context.Context, svc *v1.Service, ds *appsv1.DaemonSet, replaces *v1.PodSpec) trial {
	t, spec := m.trials.of(ds.Name), ds.Annotations[plan.AnnotationSpecHash]
	if t.spec == spec && time.Since(t.at) < t.retry {
		m.queue.EnqueueAfter(nameOf(svc), t.retry-time.Since(t.at))
		return t
	}
	if t.retry = min(2*t.retry, maxRetry); t.spec != spec || t.retry == 0 {
		t.retry = firstRetry
	}
	pod := podOf(ds)
	err := m.ask(ctx, pod)
	t.spec, t.at = spec, time.Now()
	t.words, t.refused = refusal(err)
	if t.refused && replaces != nil && fitsAfterReplacing(t.words, *replaces, pod.Spec) {
		t.refused = false
	}
	klog.FromContext(ctx).V(2).Info("Tried to create a proxy by a dry run", "service", klog.KObj(svc), "daemonSet", klog.KObj(ds), "refused", t.refused, "err", err)
	m.trials.set(ds.Name, t)
	m.queue.EnqueueAfter(nameOf(svc), t.retry)
	return t
}

// ask creates a pod by a dry run.
func (m *Manager) ask(ctx context.Context, pod *v1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, dryRunTimeout)
	defer cancel()
	_, err := m.kube.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// podOf returns a pod as the DaemonSet controller makes it, but for what is different on each node.
// The owner does not block, as that would take the right to change finalizers of DaemonSets where the
// admission plugin OwnerReferencesPermissionEnforcement is on.
func podOf(ds *appsv1.DaemonSet) *v1.Pod {
	template := ds.Spec.Template.DeepCopy()
	pod := &v1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	// A generated name would make the same refusal another one each time.
	pod.Namespace, pod.Name = ds.Namespace, ds.Name+"-dry-run"
	pod.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "DaemonSet", Name: ds.Name, UID: ds.UID, Controller: ptr.To(true),
	}}
	return pod
}

// admittedAnnotation is set on a DaemonSet when its pods are admitted again.
const admittedAnnotation = options.Prefix + "pods-admitted"

// requeue makes the DaemonSet controller try again at once. It waits for as long as it has failed, up to
// 17 minutes.
func (m *Manager) requeue(ctx context.Context, ds *appsv1.DaemonSet) {
	changed := ds.DeepCopy()
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, admittedAnnotation, time.Now().UTC().Format(time.RFC3339))
	if _, err := m.kube.AppsV1().DaemonSets(ds.Namespace).Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		klog.FromContext(ctx).Error(err, "Proxies that are admitted again will be created later", "daemonSet", klog.KObj(ds))
	}
}

func nameOf(svc *v1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
