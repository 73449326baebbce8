// Package proxies creates, observes and replaces the proxies of Services: their DaemonSets and
// ConfigMaps. What these look like, and which ports a proxy set has, is computed in package plan.
package proxies

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Enqueuer makes the service controller ensure a Service again.
type Enqueuer interface {
	EnqueueAfter(service types.NamespacedName, d time.Duration)
}

// Manager manages the proxies of all Services. Its methods are safe for concurrent use.
type Manager struct {
	ConfigMaps objects.Store[*v1.ConfigMap]
	DaemonSets objects.Store[*appsv1.DaemonSet]
	pods       cache.Indexer
	kube       kubernetes.Interface
	settings   plan.Settings
	queue      Enqueuer
	trials     trials
	reloads    *reloads
	observed   observedPods
}

// The indexes of proxies. Only endedByService has pods that have ended: these are nobody's proxies.
const (
	byService      = "service"
	byNode         = "node"
	byHostPort     = "host port"
	endedByService = "service of ended pods"
)

var indexers = cache.Indexers{
	byService: index(false, serviceOf),
	byNode:    index(false, func(pod *v1.Pod) []string { return []string{publish.TargetNode(pod)} }),
	byHostPort: index(false, func(pod *v1.Pod) (ports []string) {
		for _, port := range snapshot.HostPorts(pod.Spec) {
			ports = append(ports, port.String())
		}
		return ports
	}),
	endedByService: index(true, serviceOf),
}

func serviceOf(pod *v1.Pod) []string { return []string{pod.Labels[plan.LabelServiceUID]} }

// index is an index of the pods that have ended, or of the others.
func index(ended bool, keys func(*v1.Pod) []string) cache.IndexFunc {
	return func(obj any) ([]string, error) {
		if pod := obj.(*v1.Pod); publish.Ended(pod) == ended {
			return keys(pod), nil
		}
		return nil, nil
	}
}

// New returns a Manager. reload is a client for the requests that make proxies reload their configs, with
// the rate ReloadQPS. owned is an informer factory for objects with our mark in the namespace of the
// proxies, which has not been started.
func New(kube, reload kubernetes.Interface, settings plan.Settings, owned informers.SharedInformerFactory, queue Enqueuer) (*Manager, error) {
	pods := owned.Core().V1().Pods().Informer()
	if err := pods.AddIndexers(indexers); err != nil {
		return nil, fmt.Errorf("indexing proxies: %w", err)
	}
	return &Manager{
		ConfigMaps: objects.ConfigMaps(kube, settings, owned.Core().V1().ConfigMaps().Lister(), queue),
		DaemonSets: objects.DaemonSets(kube, settings, owned.Apps().V1().DaemonSets().Lister(), queue),
		pods:       pods.GetIndexer(),
		kube:       kube,
		settings:   settings,
		queue:      queue,
		reloads:    newReloads(reload),
		observed:   observedPods{services: map[types.UID]bool{}},
	}, nil
}

// Run makes proxies reload changed configs until ctx is done.
func (m *Manager) Run(ctx context.Context) { m.reloads.run(ctx) }

// Pods returns the proxies of a Service that have not ended, in any other state.
func (m *Manager) Pods(svc *v1.Service) []*v1.Pod { return m.find(byService, string(svc.UID)) }

// ServicesOn returns the UIDs of the Services that have a proxy on a node, or one created for it.
func (m *Manager) ServicesOn(node string) map[types.UID]bool {
	services := map[types.UID]bool{}
	for _, pod := range m.find(byNode, node) {
		services[types.UID(pod.Labels[plan.LabelServiceUID])] = true
	}
	return services
}

// Ended returns the former proxies of a Service that have ended and still exist.
func (m *Manager) Ended(svc *v1.Service) []*v1.Pod { return m.find(endedByService, string(svc.UID)) }

// AllPods returns the proxies of all Services that have not ended, in any other state.
func (m *Manager) AllPods() []*v1.Pod {
	var pods []*v1.Pod
	for _, obj := range m.pods.List() {
		if pod := obj.(*v1.Pod); !publish.Ended(pod) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (m *Manager) find(index, value string) []*v1.Pod {
	found, _ := m.pods.ByIndex(index, value) // The index exists.
	pods := make([]*v1.Pod, 0, len(found))
	for _, pod := range found {
		pods = append(pods, pod.(*v1.Pod))
	}
	return pods
}

// Observe returns the proxies of DaemonSets as they are.
func (m *Manager) Observe(svc *v1.Service, daemonSets []*appsv1.DaemonSet) []publish.ProxySet {
	var sets []publish.ProxySet
	for _, ds := range daemonSets {
		sets = append(sets, publish.ProxySet{
			Ports: snapshot.HostPorts(ds.Spec.Template.Spec), Pods: m.podsOf(svc, ds), Created: ds.CreationTimestamp.Time,
		})
	}
	return sets
}

func (m *Manager) podsOf(svc *v1.Service, ds *appsv1.DaemonSet) []*v1.Pod {
	return plan.PodsIn(ds, m.Pods(svc))
}

// ServedPorts returns the ports for which a Service has a ready proxy, by node.
func (m *Manager) ServedPorts(svc *v1.Service) map[string]map[snapshot.Port]bool {
	served := map[string]map[snapshot.Port]bool{}
	for _, proxy := range m.Pods(svc) {
		if !publish.Ready(proxy) {
			continue
		}
		if served[proxy.Spec.NodeName] == nil {
			served[proxy.Spec.NodeName] = map[snapshot.Port]bool{}
		}
		for _, port := range snapshot.HostPorts(proxy.Spec) {
			served[proxy.Spec.NodeName][port] = true
		}
	}
	return served
}

// OthersWithPortsOf returns the proxies of other Services that have a Service's ports, by port, on
// nodes where it does not serve the port itself.
func (m *Manager) OthersWithPortsOf(svc *v1.Service) map[snapshot.Port][]*v1.Pod {
	others := map[snapshot.Port][]*v1.Pod{}
	served := sync.OnceValue(func() map[string]map[snapshot.Port]bool { return m.ServedPorts(svc) })
	for _, port := range snapshot.PortsOf(svc) {
		for _, pod := range m.find(byHostPort, port.String()) {
			if pod.Labels[plan.LabelServiceUID] != string(svc.UID) && pod.Spec.NodeName != "" && !served()[pod.Spec.NodeName][port] {
				others[port] = append(others[port], pod)
			}
		}
	}
	return others
}

// Held returns the names of the nodes on which a Service has a port by its proxies: those that a
// DaemonSet with the port selects, and those where one of its pods still is.
func (m *Manager) Held(svc *v1.Service, port snapshot.Port, nodes []*v1.Node) map[string]bool {
	held := map[string]bool{}
	for _, ds := range m.Cached(svc) {
		template := ds.Spec.Template.Spec
		if !slices.Contains(snapshot.HostPorts(template), port) {
			continue
		}
		required := nodeaffinity.GetRequiredNodeAffinity(&v1.Pod{Spec: template})
		for _, node := range nodes {
			matches, err := required.Match(node)
			if err == nil && matches && snapshot.Tolerates(options.Options{Tolerations: template.Tolerations}, node) {
				held[node.Name] = true
			}
		}
		for _, pod := range m.podsOf(svc, ds) {
			if slices.Contains(snapshot.HostPorts(pod.Spec), port) {
				held[pod.Spec.NodeName] = true
			}
		}
	}
	return held
}

// Cached returns the DaemonSets of a Service from the cache.
func (m *Manager) Cached(svc *v1.Service) []*appsv1.DaemonSet {
	var list []*appsv1.DaemonSet
	for _, name := range plan.SetNames(svc) {
		if ds, found := m.DaemonSets.Cached(svc, name); found {
			list = append(list, ds)
		}
	}
	return list
}

// CachedAny reports whether the cache has any object of a Service's proxies.
func (m *Manager) CachedAny(svc *v1.Service) bool {
	for _, name := range plan.SetNames(svc) {
		if m.cachedSet(svc, name) {
			return true
		}
	}
	return false
}

func (m *Manager) cachedSet(svc *v1.Service, name string) bool {
	_, daemonSet := m.DaemonSets.Cached(svc, name)
	_, configMap := m.ConfigMaps.Cached(svc, name)
	return daemonSet || configMap
}

// Exist reports whether the API server has any object of a Service's proxies.
func (m *Manager) Exist(ctx context.Context, svc *v1.Service) (bool, error) {
	for _, name := range plan.SetNames(svc) {
		if _, found, err := m.DaemonSets.Live(ctx, svc, name); found || err != nil {
			return found, err
		}
		if _, found, err := m.ConfigMaps.Live(ctx, svc, name); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// NotEnded returns the proxies of a Service that may forward now or soon: see publish.NotEnded.
// Where the cache has none, it asks the API server, as one may not be in the cache yet; but not if the
// cache had all of them when Delete deleted their DaemonSets.
func (m *Manager) NotEnded(ctx context.Context, svc *v1.Service, nodes []*v1.Node) ([]*v1.Pod, error) {
	if cached := publish.NotEnded(m.Pods(svc), nodes); len(cached) > 0 {
		return cached, nil
	}
	if m.observed.take(svc.UID) {
		return nil, nil
	}
	live, err := m.kube.CoreV1().Pods(m.settings.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.SelectorFromSet(labels.Set{plan.LabelServiceUID: string(svc.UID)}).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("listing the proxies of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	var pods []*v1.Pod
	for i := range live.Items {
		pods = append(pods, &live.Items[i])
	}
	if pods = publish.NotEnded(pods, nodes); len(pods) == 0 {
		m.observed.forget(svc.UID)
	}
	return pods, nil
}

// Overridden returns a message for each object of a Service's proxies that others change.
func (m *Manager) Overridden(svc *v1.Service) []string {
	return slices.Concat(m.DaemonSets.Overridden(svc), m.ConfigMaps.Overridden(svc))
}

// Replace deletes a proxy, so that its DaemonSet makes another one when it has drained.
func (m *Manager) Replace(ctx context.Context, proxy *v1.Pod) error {
	return m.kube.CoreV1().Pods(proxy.Namespace).Delete(ctx, proxy.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(proxy.UID))})
}

// Delete deletes all objects of a Service's proxies.
func (m *Manager) Delete(ctx context.Context, svc *v1.Service) error {
	m.observed.add(svc.UID, !slices.ContainsFunc(plan.SetNames(svc), func(name string) bool { return !m.hasAllPods(svc, name) }))
	for _, name := range plan.SetNames(svc) {
		if err := m.deleteSet(ctx, svc, name); err != nil {
			return err
		}
	}
	return nil
}

// hasAllPods reports whether the cache has all pods of a set.
func (m *Manager) hasAllPods(svc *v1.Service, set string) bool {
	ds, found := m.DaemonSets.Cached(svc, set)
	if !found {
		return !m.DaemonSets.MayExist(svc, set)
	}
	return plan.HasOnly(ds, m.podsOf(svc, ds))
}

func (m *Manager) deleteSet(ctx context.Context, svc *v1.Service, name string) error {
	m.trials.forget(name)
	if err := m.DaemonSets.Delete(ctx, svc, name); err != nil {
		return err
	}
	return m.ConfigMaps.Delete(ctx, svc, name)
}
