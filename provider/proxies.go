package provider

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// nudgeAnnotation is put on running proxy pods when their config has changed:
// the kubelet looks at a pod's volumes at once when the pod changes, and else
// within about a minute.
const nudgeAnnotation = options.Prefix + "config-changed"

// nudgeAgain is after how long pods are nudged once more. The kubelet learns of config and
// pod by two watches: where the pod's is ahead, it looks in vain.
const nudgeAgain = 3 * time.Second

// rolloutPeriod is after how long to look whether a rollout has ended.
const rolloutPeriod = 2 * time.Second

// The indexes of proxies: each look at a Service asks for its own, among those of
// all Services on all nodes, and perhaps for those that have its ports.
const (
	byService  = "service"
	byHostPort = "host port"
)

var proxyIndexers = cache.Indexers{
	byService:  serviceUID,
	byHostPort: func(obj any) ([]string, error) { return plan.HostPorts(obj.(*v1.Pod).Spec), nil },
}

func serviceUID(obj any) ([]string, error) {
	return []string{obj.(*v1.Pod).Labels[plan.LabelServiceUID]}, nil
}

// proxies returns the Service's proxy pods, in any state.
func (l *loadBalancer) proxies(svc *v1.Service) []*v1.Pod {
	found, _ := l.pods.ByIndex(byService, string(svc.UID)) // The index is there.
	var pods []*v1.Pod
	for _, pod := range found {
		pods = append(pods, pod.(*v1.Pod))
	}
	return pods
}

// proxiesIn returns those of one set.
func (l *loadBalancer) proxiesIn(svc *v1.Service, set *appsv1.DaemonSet) []*v1.Pod {
	return slices.DeleteFunc(l.proxies(svc), func(pod *v1.Pod) bool { return !plan.InSet(set, pod) })
}

// setsOf returns the proxies of DaemonSets as they are.
func (l *loadBalancer) setsOf(svc *v1.Service, daemonSets []*appsv1.DaemonSet) []publish.Set {
	var sets []publish.Set
	for _, ds := range daemonSets {
		sets = append(sets, publish.Set{Pods: l.proxiesIn(svc, ds), Since: ds.CreationTimestamp.Time})
	}
	return sets
}

// knownSets returns from memory the DaemonSets that a Service has.
func (l *loadBalancer) knownSets(svc *v1.Service) []*appsv1.DaemonSet {
	var list []*appsv1.DaemonSet
	for _, name := range plan.SetNames(svc) {
		if ds, found := l.daemonSets.known(svc, name); found {
			list = append(list, ds)
		}
	}
	return list
}

// knowsProxies says whether memory has any object that is for a Service's
// proxies.
func (l *loadBalancer) knowsProxies(svc *v1.Service) bool {
	return slices.ContainsFunc(plan.SetNames(svc), func(name string) bool { return l.knowsSet(svc, name) })
}

func (l *loadBalancer) knowsSet(svc *v1.Service, name string) bool {
	_, daemonSet := l.daemonSets.known(svc, name)
	_, configMap := l.configMaps.known(svc, name)
	return daemonSet || configMap
}

// findProxies asks the API server for any object that is for a Service's proxies.
func (l *loadBalancer) findProxies(ctx context.Context, svc *v1.Service) (bool, error) {
	for _, name := range plan.SetNames(svc) {
		_, daemonSet, err := l.daemonSets.find(ctx, svc, name)
		if daemonSet || err != nil {
			return daemonSet, err
		}
		_, configMap, err := l.configMaps.find(ctx, svc, name)
		if configMap || err != nil {
			return configMap, err
		}
	}
	return false, nil
}

// run makes the proxies, if the Service is to have them, and returns the
// DaemonSets that it has. While a mirror still serves nodes whose proxies are not
// ready, it is kept as the Service wants it, if the API server permits.
func (l *loadBalancer) run(ctx context.Context, svc *v1.Service, p *plan.Plan, w way, now direct, nodes []*v1.Node) ([]*appsv1.DaemonSet, error) {
	if w.direct {
		return l.knownSets(svc), nil
	}
	var err error
	if now.mirror != nil && len(now.nodes) > 0 {
		if _, _, err = l.mirrors.ensure(ctx, svc, p.Mirror); apierrors.IsForbidden(err) {
			err = nil
		}
	}
	sets, failed := l.runProxies(ctx, svc, p, nodes)
	return sets, errors.Join(err, failed)
}

func (l *loadBalancer) runProxies(ctx context.Context, svc *v1.Service, p *plan.Plan, nodes []*v1.Node) (have []*appsv1.DaemonSet, err error) {
	division, err := l.divide(ctx, svc, p)
	if err != nil {
		return nil, err
	}
	busy := false
	for _, set := range p.Proxies(division) {
		if set.DaemonSet == nil {
			if err := l.drop(ctx, svc, set.Name); err != nil {
				return have, err
			}
			continue
		}
		without := publish.WithoutProxy(nodes, p.Nodes, l.proxiesIn(svc, set.DaemonSet))
		set.LetRolloutPass(without)
		ds, err := l.runSet(ctx, svc, set, busy)
		if err != nil {
			return have, err
		}
		have, busy = append(have, ds), plan.RollsOut(ds, without)
	}
	return have, nil
}

// divide gives each port to a set of proxies. Where something is to change,
// memory may be behind and would have a port given twice: so the API server is
// asked what the sets have.
func (l *loadBalancer) divide(ctx context.Context, svc *v1.Service, p *plan.Plan) (plan.Division, error) {
	wanted, names := plan.PortKeys(p.Served), plan.SetNames(svc)
	var have plan.Division
	for i, name := range names {
		if ds, found := l.daemonSets.known(svc, name); found {
			have[i] = plan.HostPorts(ds.Spec.Template.Spec)
		}
	}
	if next := plan.Divide(wanted, have); next.Equal(have) {
		return next, nil
	}
	for i, name := range names {
		ds, found, err := l.daemonSets.find(ctx, svc, name)
		if err != nil {
			return have, err
		}
		if have[i] = nil; found {
			have[i] = plan.HostPorts(ds.Spec.Template.Spec)
		}
	}
	return plan.Divide(wanted, have), nil
}

// runSet makes one set of proxies. The config comes first, as they wait for it.
// While those of another set are being replaced, what can wait does.
func (l *loadBalancer) runSet(ctx context.Context, svc *v1.Service, set plan.ProxySet, busy bool) (*appsv1.DaemonSet, error) {
	_, done, err := l.configMaps.ensure(ctx, svc, set.ConfigMap)
	if err != nil {
		return nil, err
	}
	if done == updated {
		l.hasten(ctx, svc, set.DaemonSet)
	}
	if have, found := l.daemonSets.known(svc, set.Name); busy && found && plan.Waits(have, set.DaemonSet) {
		l.services.PokeAfter(nameOf(svc), rolloutPeriod)
		return have, nil
	}
	ds, _, err := l.daemonSets.ensure(ctx, svc, set.DaemonSet)
	return ds, err
}

// hasten has a changed config reach the pods of a set soon. The second nudge is not for
// a set that is gone by then.
func (l *loadBalancer) hasten(ctx context.Context, svc *v1.Service, set *appsv1.DaemonSet) {
	l.nudge(ctx, svc, l.proxiesIn(svc, set))
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(nudgeAgain):
		}
		if _, found := l.configMaps.known(svc, set.Name); found {
			l.nudge(ctx, svc, l.proxiesIn(svc, set))
		}
	}()
}

// nudge has the kubelets look at the volumes of pods. It is for haste only, so failures
// are not errors.
func (l *loadBalancer) nudge(ctx context.Context, svc *v1.Service, pods []*v1.Pod) {
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{ // Strings only: never an error.
		"annotations": map[string]string{nudgeAnnotation: time.Now().UTC().Format(time.RFC3339Nano)},
	}})
	for _, pod := range pods {
		_, err := l.kube.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			klog.FromContext(ctx).Error(err, "A proxy will take up to a minute to see its new config", "service", klog.KObj(svc), "pod", klog.KObj(pod))
		}
	}
}

// drop removes a set that is not to be, if memory knows anything of it.
func (l *loadBalancer) drop(ctx context.Context, svc *v1.Service, name string) error {
	if !l.knowsSet(svc, name) {
		return nil
	}
	return l.removeSet(ctx, svc, name)
}

func (l *loadBalancer) removeSet(ctx context.Context, svc *v1.Service, name string) error {
	if err := l.daemonSets.remove(ctx, svc, name); err != nil {
		return err
	}
	return l.configMaps.remove(ctx, svc, name)
}

// removeProxies removes all sets.
func (l *loadBalancer) removeProxies(ctx context.Context, svc *v1.Service) error {
	l.settling.forget(svc.UID)
	for _, name := range plan.SetNames(svc) {
		if err := l.removeSet(ctx, svc, name); err != nil {
			return err
		}
	}
	return nil
}
