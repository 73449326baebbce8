// Package viewtest has fakes of what package view offers to the load balancer.
package viewtest

import (
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Queue records which Services are enqueued. It is not safe for concurrent use.
type Queue struct {
	// Services are those that are to be served.
	Services []*v1.Service
	// Enqueued are the Services that were enqueued, in order, at once or for later.
	Enqueued []types.NamespacedName
}

// Enqueue records the Service.
func (q *Queue) Enqueue(service types.NamespacedName) { q.Enqueued = append(q.Enqueued, service) }

// EnqueueAfter records the Service.
func (q *Queue) EnqueueAfter(service types.NamespacedName, _ time.Duration) { q.Enqueue(service) }

// Wanted returns Services.
func (q *Queue) Wanted() []*v1.Service { return q.Services }

// Wants reports whether a Service is one of Services.
func (q *Queue) Wants(service types.NamespacedName) bool { return q.Latest(service) != nil }

// Latest returns a Service of Services, or nil.
func (q *Queue) Latest(service types.NamespacedName) *v1.Service {
	for _, svc := range q.Services {
		if svc.Namespace == service.Namespace && svc.Name == service.Name {
			return svc
		}
	}
	return nil
}

// Newest is Latest.
func (q *Queue) Newest(service types.NamespacedName) *v1.Service { return q.Latest(service) }

// Wrote does nothing.
func (q *Queue) Wrote(string, *v1.Service) {}

// Exists returns true.
func (q *Queue) Exists(*v1.Service) bool { return true }

// SyncBegins does nothing.
func (q *Queue) SyncBegins(types.NamespacedName) {}

// StatusUnchanged does nothing.
func (q *Queue) StatusUnchanged(types.NamespacedName) {}

// Foreign is what others have in the cluster. The zero value is nothing.
type Foreign struct {
	// Pods are pods with host ports, by port.
	Pods map[snapshot.Port][]*v1.Pod
	// Endpoints are the names of the nodes with a ready endpoint of any Service.
	Endpoints map[string]bool
}

// PodsWithPortsOf returns the pods that have a port of the Service.
func (f Foreign) PodsWithPortsOf(svc *v1.Service) map[snapshot.Port][]*v1.Pod {
	pods := map[snapshot.Port][]*v1.Pod{}
	for _, port := range snapshot.PortsOf(svc) {
		if len(f.Pods[port]) > 0 {
			pods[port] = f.Pods[port]
		}
	}
	return pods
}

// EndpointNodes returns Endpoints; no other endpoint serves.
func (f Foreign) EndpointNodes(*v1.Service) (ready, serving map[string]bool) {
	return f.Endpoints, f.Endpoints
}
