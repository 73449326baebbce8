package view

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// batchDelay is how long an enqueued Service waits for further events: a rollout or a node's
// failure comes as many events.
const batchDelay = 100 * time.Millisecond

// cleanupDelay is the same for the end of a proxy of a Service that is cleaned up.
const cleanupDelay = time.Second

// Enqueue makes the service controller sync a Service soon: ensure it, or continue to clean it up.
// Services that are not ours are ignored.
func (s *Services) Enqueue(service types.NamespacedName) {
	s.times.happened(service)
	s.queue.AddAfter(service, batchDelay)
}

// EnqueueAfter makes the service controller sync a Service after a time. That is when the event
// happens from which the time to the status is measured.
func (s *Services) EnqueueAfter(service types.NamespacedName, d time.Duration) {
	s.queue.AddAfter(service, d)
}

// EnqueueAll enqueues all our Services and starts a new Generation, after which planning takes a
// new snapshot.
func (s *Services) EnqueueAll() {
	s.generation.Add(1)
	all, _ := s.Lister().List(labels.Everything()) // From the cache: never an error.
	for _, svc := range all {
		if wanted(svc) || cleaningUp(svc) {
			s.Enqueue(nameOf(svc))
		}
	}
}

// SetConcerned sets what returns the Services that a change of a node may concern. Without it, these are
// all. It is called after the change of the Generation.
func (s *Services) SetConcerned(concerned func(snapshot.NodeChange) []*v1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.concerned = concerned
}

// EnqueueConcerned starts a new Generation, and enqueues the Services that a change of a node may
// concern and those that are being cleaned up.
func (s *Services) EnqueueConcerned(change snapshot.NodeChange) {
	s.mu.Lock()
	concerned := s.concerned
	s.mu.Unlock()
	if concerned == nil {
		s.EnqueueAll()
		return
	}
	s.generation.Add(1)
	for _, svc := range concerned(change) {
		s.Enqueue(nameOf(svc))
	}
	for _, svc := range s.beingCleanedUp() {
		s.Enqueue(nameOf(svc))
	}
}

// Resume makes the service controller sync a Service whose firewall operation has ended: at once if
// it is being cleaned up, else as Enqueue does.
func (s *Services) Resume(service types.NamespacedName) {
	shown, err := s.Lister().Services(service.Namespace).Get(service.Name)
	if err != nil || !cleaningUp(shown) {
		s.Enqueue(service)
		return
	}
	s.deliver(shown)
}

// Run delivers enqueued Services until ctx is done.
func (s *Services) Run(ctx context.Context) {
	context.AfterFunc(ctx, s.queue.ShutDown)
	for {
		service, quit := s.queue.Get()
		if quit {
			return
		}
		switch shown, err := s.Lister().Services(service.Namespace).Get(service.Name); {
		case err == nil && wanted(shown):
			s.times.happened(service)
			s.deliver(shown)
		case err == nil && cleaningUp(shown):
			s.times.forget(service)
			s.deliver(shown)
		default:
			s.times.forget(service)
		}
		s.queue.Done(service)
	}
}

// deliver passes a Service to the controller's handler as changed.
func (s *Services) deliver(shown *v1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, handler := range s.handlers {
		handler.OnUpdate(shown, s.withNewAnnotation(shown))
	}
}

// enqueueForStatus enqueues a Service whose status may have been written by another component.
func (s *Services) enqueueForStatus(svc *v1.Service) {
	backoff := s.statuses.observed(nameOf(svc), svc.Status.LoadBalancer)
	if backoff > time.Second {
		klog.Background().Info("Another component repeatedly writes the status of a Service that is served here: if another load balancer controller serves it too, let only one do so, by its loadBalancerClass",
			"service", klog.KObj(svc), "nextSync", backoff)
	}
	if backoff > 0 {
		s.EnqueueAfter(nameOf(svc), backoff)
	}
}
