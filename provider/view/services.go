// Package view stands between the API server and the standard service controller of
// k8s.io/cloud-provider, so that the controller serves our Services without a fork:
//   - Services is an informer and lister that shows it all Services but the load balancers of other
//     controllers, in the form that it serves (visibility.go), and enqueues a Service when something has changed that it does not
//     watch itself (enqueue.go, owned.go, foreign.go, competitors.go);
//   - Client translates what it writes (client.go); enqueueForStatus (enqueue.go) has statuses that
//     others write corrected, with the backoff of statusconflict.go;
//   - Foreign has what others have in the cluster; QuietNodes lists nodes without reporting changes.
//
// The package does not decide what a Service should have.
package view

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Services is a ServiceInformer that shows Services as the service controller should see them. Make
// it with NewServices.
type Services struct {
	real       coreinformers.ServiceInformer
	visibility visibility
	// enqueued numbers the values of enqueuedAnnotation, the others the changes; see Generation.
	enqueued, generation, serviceGeneration atomic.Uint64
	queue                                   workqueue.TypedDelayingInterface[types.NamespacedName]
	statuses                                *statusConflicts
	times                                   *statusTimes
	// written has a written value for each Service that Wrote was called for, by its name.
	written sync.Map

	mu        sync.Mutex
	synced    []cache.InformerSynced
	handlers  []cache.ResourceEventHandler
	concerned func(snapshot.NodeChange) []*v1.Service
}

var _ coreinformers.ServiceInformer = &Services{}

// NewServices wraps an informer that has not been started. classes selects our Services.
func NewServices(real coreinformers.ServiceInformer, classes config.Classes) (*Services, error) {
	s := &Services{
		real:       real,
		visibility: visibility{classes},
		queue:      workqueue.NewTypedDelayingQueue[types.NamespacedName](),
		statuses:   newStatusConflicts(),
		times:      newStatusTimes(),
		synced:     []cache.InformerSynced{real.Informer().HasSynced},
	}
	return s, real.Informer().AddIndexers(cache.Indexers{byPort: s.indexByPort, byCleanup: s.indexByCleanup})
}

// Generation returns a counter that changes with every change of a node, of a Service's spec,
// annotations or deletion, and with EnqueueAll. It changes before the Services concerned are
// enqueued, and before the service controller sees the change.
func (s *Services) Generation() uint64 { return s.generation.Load() }

// ServiceGeneration is the same, but changes only with Services.
func (s *Services) ServiceGeneration() uint64 { return s.serviceGeneration.Load() }

func (s *Services) countServiceChange() {
	s.serviceGeneration.Add(1)
	s.generation.Add(1)
}

// Wanted returns the Services that want a load balancer from us, as shown.
func (s *Services) Wanted() []*v1.Service {
	all, _ := s.Lister().List(labels.Everything()) // From the cache: never an error.
	var served []*v1.Service
	for _, svc := range all {
		if wanted(svc) {
			served = append(served, svc)
		}
	}
	return served
}

// Wants reports whether a Service wants a load balancer from us.
func (s *Services) Wants(service types.NamespacedName) bool {
	shown, err := s.Lister().Services(service.Namespace).Get(service.Name)
	return err == nil && wanted(shown)
}

// Latest returns a Service as it is in the cache, or nil.
func (s *Services) Latest(service types.NamespacedName) *v1.Service {
	svc, err := s.real.Lister().Services(service.Namespace).Get(service.Name)
	if err != nil {
		return nil
	}
	return svc
}

// written is a Service that was written when the cache had the version before.
type written struct {
	before string
	after  *v1.Service
}

// Wrote says that a Service was written while the cache had the version before. The cache has what was
// written after a while.
func (s *Services) Wrote(before string, after *v1.Service) {
	s.written.Store(nameOf(after), written{before, after})
}

// Newest is Latest, or what was written since.
func (s *Services) Newest(service types.NamespacedName) *v1.Service {
	latest := s.Latest(service)
	if last, known := s.written.Load(service); known && latest != nil && latest.ResourceVersion == last.(written).before {
		return last.(written).after
	}
	return latest
}

// Exists reports whether the cache has a Service, and not another one of the same name.
func (s *Services) Exists(svc *v1.Service) bool {
	have := s.Latest(nameOf(svc))
	return have != nil && have.UID == svc.UID
}

// Manages reports whether we serve a Service, or have not finished cleaning it up.
func (s *Services) Manages(svc *v1.Service) bool {
	shown, visible := s.visibility.of(svc)
	return visible && (wanted(shown) || cleaningUp(shown))
}

// Informer implements coreinformers.ServiceInformer.
func (s *Services) Informer() cache.SharedIndexInformer {
	return informer{s.real.Informer(), s}
}

// Lister implements coreinformers.ServiceInformer.
func (s *Services) Lister() corelisters.ServiceLister { return lister{s.real.Lister(), s.visibility} }

type informer struct {
	cache.SharedIndexInformer
	services *Services
}

// HasSynced reports whether all caches that EnsureLoadBalancer reads have synced, not only that of
// Services: with some of them it would publish some of the addresses.
func (i informer) HasSynced() bool {
	i.services.mu.Lock()
	defer i.services.mu.Unlock()
	for _, synced := range i.services.synced {
		if !synced() {
			return false
		}
	}
	return true
}

func (i informer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, period time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	i.services.mu.Lock()
	defer i.services.mu.Unlock()
	i.services.handlers = append(i.services.handlers, h)
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(handler{h, i.services}, period)
}

// handler translates events for the controller's own handler.
type handler struct {
	cache.ResourceEventHandler
	services *Services
}

func (h handler) OnAdd(obj any, initial bool) {
	h.services.countServiceChange()
	if shown, visible := h.services.visibility.of(obj.(*v1.Service)); visible {
		h.add(shown, initial)
	}
}

func (h handler) add(shown *v1.Service, initial bool) {
	if wanted(shown) {
		h.services.times.happened(nameOf(shown))
	}
	h.ResourceEventHandler.OnAdd(shown, initial)
}

func (h handler) OnUpdate(before, after any) {
	h.services.countChange(before.(*v1.Service), after.(*v1.Service))
	old, wasVisible := h.services.visibility.of(before.(*v1.Service))
	shown, visible := h.services.visibility.of(after.(*v1.Service))
	switch {
	case visible && !wasVisible:
		h.add(shown, false)
	case visible && mustEnsure(old, shown):
		h.services.times.happened(nameOf(shown))
		h.ResourceEventHandler.OnUpdate(old, h.services.withNewAnnotation(shown))
	case visible:
		if wanted(shown) && !maps.Equal(old.Annotations, shown.Annotations) {
			h.services.times.happened(nameOf(shown))
		}
		h.ResourceEventHandler.OnUpdate(old, shown)
	}
	if wasVisible && visible && wanted(shown) && !servicehelper.LoadBalancerStatusEqual(&old.Status.LoadBalancer, &shown.Status.LoadBalancer) {
		h.services.enqueueForStatus(shown)
	}
}

// OnDelete makes the controller sync the Service and clean up what it remembers. The controller
// relies on finalizers and ignores deletions, but somebody may have removed the finalizers.
func (h handler) OnDelete(obj any) {
	h.services.countServiceChange()
	svc, ok := unwrapDeleted(obj).(*v1.Service)
	if !ok {
		return
	}
	h.services.statuses.forget(nameOf(svc))
	h.services.times.forget(nameOf(svc))
	h.services.written.Delete(nameOf(svc))
	if shown, visible := h.services.visibility.of(svc); visible {
		h.ResourceEventHandler.OnUpdate(shown, h.services.withNewAnnotation(shown))
	}
}

// enqueuedAnnotation is on objects that are passed to the controller's event handler, in memory
// only. A changed annotation is what makes the controller ensure a Service whose spec is the same.
const enqueuedAnnotation = options.Prefix + "enqueued"

// withNewAnnotation returns a copy with an annotation value that was never used before.
func (s *Services) withNewAnnotation(shown *v1.Service) *v1.Service {
	changed := *shown
	changed.Annotations = map[string]string{enqueuedAnnotation: strconv.FormatUint(s.enqueued.Add(1), 10)}
	return &changed
}

// lister lists the visible Services.
type lister struct {
	corelisters.ServiceLister
	visibility visibility
}

func (l lister) List(selector labels.Selector) ([]*v1.Service, error) {
	return l.visibility.all(l.ServiceLister.List(selector))
}

func (l lister) Services(namespace string) corelisters.ServiceNamespaceLister {
	return namespaceLister{l.ServiceLister.Services(namespace), l.visibility}
}

type namespaceLister struct {
	corelisters.ServiceNamespaceLister
	visibility visibility
}

func (l namespaceLister) List(selector labels.Selector) ([]*v1.Service, error) {
	return l.visibility.all(l.ServiceNamespaceLister.List(selector))
}

// Get does not find a Service that is being deleted and waits for the finalizers of others only:
// the controller would take it for a new Service.
func (l namespaceLister) Get(name string) (*v1.Service, error) {
	svc, err := l.ServiceNamespaceLister.Get(name)
	if err != nil {
		return nil, err
	}
	shown, visible := l.visibility.of(svc)
	if !visible || shown.DeletionTimestamp != nil && !servicehelper.HasLBFinalizer(shown) {
		return nil, apierrors.NewNotFound(v1.Resource("services"), name)
	}
	return shown, nil
}

func nameOf(svc *v1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
