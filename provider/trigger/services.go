// Package trigger stands between the API server and the standard service
// controller of k8s.io/cloud-provider, so that it does our work without a fork:
// it shows the controller our Services, and only ours, in the form it serves
// (Services, as informer and lister), translates what it writes (Client), and
// makes it ensure a Service again when something happened that it does not
// watch itself (Watch, Poke). It decides nothing about what a Service should
// have.
package trigger

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// burst is how long a Poke waits for others of the same Service: a rollout or
// a node's failure comes as many events.
const burst = 100 * time.Millisecond

// pokeAnnotation is put on objects handed to the controller's event handler,
// in memory only: a changed annotation is the one thing by which it can be told
// to ensure a Service although its spec is the same.
const pokeAnnotation = options.Prefix + "poke"

// Services is a ServiceInformer that shows Services as the service controller
// should see them. Make it with NewServices.
type Services struct {
	real  coreinformers.ServiceInformer
	view  view
	pokes atomic.Uint64
	queue workqueue.TypedDelayingInterface[types.NamespacedName]
	// statuses are written by the controller; others have no business there.
	statuses *contest

	mu       sync.Mutex
	synced   []cache.InformerSynced
	handlers []cache.ResourceEventHandler
}

var _ coreinformers.ServiceInformer = &Services{}

// NewServices wraps an informer. classes says which Services are ours.
func NewServices(real coreinformers.ServiceInformer, classes config.Classes) *Services {
	return &Services{
		real:     real,
		view:     view{classes},
		queue:    workqueue.NewTypedDelayingQueue[types.NamespacedName](),
		statuses: newContest(),
		synced:   []cache.InformerSynced{real.Informer().HasSynced},
	}
}

// Poke makes the service controller ensure a Service soon. Unknown Services
// and those of others are ignored.
func (s *Services) Poke(service types.NamespacedName) { s.queue.AddAfter(service, burst) }

// PokeAfter does the same, later.
func (s *Services) PokeAfter(service types.NamespacedName, d time.Duration) {
	s.queue.AddAfter(service, d)
}

// Resume makes the service controller look again at a Service for which it got
// ErrUnderWay: at once at one that is to go, else as after a Poke.
func (s *Services) Resume(service types.NamespacedName) {
	shown, err := s.Lister().Services(service.Namespace).Get(service.Name)
	if err != nil || wants(shown) || !servicehelper.HasLBFinalizer(shown) {
		s.Poke(service)
		return
	}
	s.update(shown)
}

// PokeAll pokes every Service of ours.
func (s *Services) PokeAll() {
	shown, _ := s.Lister().List(labels.Everything()) // From memory; never an error.
	for _, svc := range shown {
		if wants(svc) {
			s.Poke(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
		}
	}
}

// Run delivers pokes until ctx is done.
func (s *Services) Run(ctx context.Context) {
	context.AfterFunc(ctx, s.queue.ShutDown)
	for {
		service, quit := s.queue.Get()
		if quit {
			return
		}
		s.deliver(service)
		s.queue.Done(service)
	}
}

// deliver tells the controller that a Service has changed. Deleting Services
// it handles by itself, with its own retries, if they are not resumed.
func (s *Services) deliver(service types.NamespacedName) {
	shown, err := s.Lister().Services(service.Namespace).Get(service.Name)
	if err != nil || !wants(shown) {
		return
	}
	s.update(shown)
}

func (s *Services) update(shown *v1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, handler := range s.handlers {
		handler.OnUpdate(shown, s.poked(shown))
	}
}

// poked returns a copy with an annotation that it never had before.
func (s *Services) poked(shown *v1.Service) *v1.Service {
	changed := *shown
	changed.Annotations = map[string]string{pokeAnnotation: strconv.FormatUint(s.pokes.Add(1), 10)}
	return &changed
}

// Informer implements coreinformers.ServiceInformer.
func (s *Services) Informer() cache.SharedIndexInformer {
	return informer{s.real.Informer(), s}
}

// Lister implements coreinformers.ServiceInformer.
func (s *Services) Lister() corelisters.ServiceLister { return lister{s.real.Lister(), s.view} }

// hasSynced waits for everything that Ensure reads, not for Services only:
// with half of the caches it would publish half of the addresses.
func (s *Services) hasSynced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, synced := range s.synced {
		if !synced() {
			return false
		}
	}
	return true
}

type informer struct {
	cache.SharedIndexInformer
	services *Services
}

func (i informer) HasSynced() bool { return i.services.hasSynced() }

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
	if shown, visible := h.services.view.of(obj.(*v1.Service)); visible {
		h.ResourceEventHandler.OnAdd(shown, initial)
	}
}

func (h handler) OnUpdate(before, after any) {
	old, wasVisible := h.services.view.of(before.(*v1.Service))
	shown, visible := h.services.view.of(after.(*v1.Service))
	switch {
	case visible && !wasVisible:
		h.ResourceEventHandler.OnAdd(shown, false)
	case visible && unseen(old, shown):
		h.ResourceEventHandler.OnUpdate(old, h.services.poked(shown))
	case visible:
		h.ResourceEventHandler.OnUpdate(old, shown)
	}
	if wasVisible && visible && wants(shown) && !servicehelper.LoadBalancerStatusEqual(&old.Status.LoadBalancer, &shown.Status.LoadBalancer) {
		h.services.statusChanged(shown)
	}
}

// statusChanged has a status looked at that somebody else may have written.
func (s *Services) statusChanged(svc *v1.Service) {
	service := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	truce := s.statuses.seen(service, svc.Status.LoadBalancer)
	if truce > time.Second {
		klog.Background().Info("Somebody else writes the status of a Service that is served here, again and again: is another load balancer controller serving it too? Have only one do so, by its loadBalancerClass",
			"service", service, "nextLook", truce)
	}
	if truce > 0 {
		s.PokeAfter(service, truce)
	}
}

// OnDelete makes the controller look: it counts on finalizers and ignores
// deletions, but someone may have removed ours by force. It then cleans up what
// it remembers.
func (h handler) OnDelete(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	svc, ok := obj.(*v1.Service)
	if !ok {
		return
	}
	h.services.statuses.forget(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	if shown, visible := h.services.view.of(svc); visible {
		h.ResourceEventHandler.OnUpdate(shown, h.services.poked(shown))
	}
}

type lister struct {
	corelisters.ServiceLister
	view view
}

func (l lister) List(selector labels.Selector) ([]*v1.Service, error) {
	return l.view.all(l.ServiceLister.List(selector))
}

func (l lister) Services(namespace string) corelisters.ServiceNamespaceLister {
	return namespaceLister{l.ServiceLister.Services(namespace), l.view}
}

type namespaceLister struct {
	corelisters.ServiceNamespaceLister
	view view
}

func (l namespaceLister) List(selector labels.Selector) ([]*v1.Service, error) {
	return l.view.all(l.ServiceNamespaceLister.List(selector))
}

// Get does not find a Service that is being deleted and only waits for others:
// the controller would take it for a new one.
func (l namespaceLister) Get(name string) (*v1.Service, error) {
	svc, err := l.ServiceNamespaceLister.Get(name)
	if err != nil {
		return nil, err
	}
	shown, visible := l.view.of(svc)
	if !visible || released(shown) {
		return nil, apierrors.NewNotFound(v1.Resource("services"), name)
	}
	return shown, nil
}

func (v view) all(services []*v1.Service, err error) ([]*v1.Service, error) {
	var visible []*v1.Service
	for _, svc := range services {
		if shown, ok := v.of(svc); ok {
			visible = append(visible, shown)
		}
	}
	return visible, err
}
