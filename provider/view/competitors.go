package view

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// competitorHandler enqueues the Services that want a port of another one that is created, deleted,
// or changes what it wants or what kube-proxy serves of it on ports of nodes.
func (s *Services) competitorHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			s.countServiceChange()
			if svc := obj.(*v1.Service); !initial {
				s.enqueueClaimants(s.contestedPorts(svc), svc.UID)
			}
		},
		UpdateFunc: func(before, after any) {
			old, svc := before.(*v1.Service), after.(*v1.Service)
			if s.countChange(old, svc) {
				s.enqueueClaimants(append(s.contestedPorts(old), s.contestedPorts(svc)...), svc.UID)
			}
		},
		DeleteFunc: func(obj any) {
			s.countServiceChange()
			if svc, ok := unwrapDeleted(obj).(*v1.Service); ok {
				s.enqueueClaimants(s.contestedPorts(svc), svc.UID)
			}
		},
	}
}

// countChange counts a new generation if a Service may claim or occupy other ports or nodes than
// before, and reports whether it may. The statuses of our own Services do not matter.
func (s *Services) countChange(old, svc *v1.Service) bool {
	if old == svc { // A resync.
		return false
	}
	// A Service that was created again while a watch was interrupted arrives as an update.
	same := old.UID == svc.UID && equality.Semantic.DeepEqual(old.Spec, svc.Spec) && maps.Equal(old.Annotations, svc.Annotations) &&
		(old.DeletionTimestamp == nil) == (svc.DeletionTimestamp == nil) &&
		(len(s.claimedPorts(svc)) > 0 || plan.IsMirror(svc) || servicehelper.LoadBalancerStatusEqual(&old.Status.LoadBalancer, &svc.Status.LoadBalancer))
	if !same {
		s.countServiceChange()
	}
	return !same
}

// byPort is the index of the Services that want a port of nodes from us.
const byPort = "port"

func (s *Services) indexByPort(obj any) ([]string, error) {
	var ports []string
	for _, port := range s.claimedPorts(obj.(*v1.Service)) {
		ports = append(ports, port.String())
	}
	return ports, nil
}

// contestedPorts returns the ports of nodes that a Service keeps from others: those that it wants
// from us, and those that kube-proxy serves.
func (s *Services) contestedPorts(svc *v1.Service) []snapshot.Port {
	return append(s.claimedPorts(svc), snapshot.OccupiedPorts(svc)...)
}

// claimedPorts returns the ports that a Service wants from us.
func (s *Services) claimedPorts(svc *v1.Service) []snapshot.Port {
	if shown, visible := s.visibility.of(svc); visible && wanted(shown) {
		return snapshot.PortsOf(shown)
	}
	return nil
}

// byCleanup is the index of the Services that we may have to clean up: those with our finalizer or
// the standard one that want no load balancer from us.
const byCleanup = "cleanup"

func (s *Services) indexByCleanup(obj any) ([]string, error) {
	if shown, visible := s.visibility.of(obj.(*v1.Service)); visible && cleaningUp(shown) {
		return []string{""}, nil
	}
	return nil, nil
}

// beingCleanedUp returns the Services that want no load balancer any more and still have what was made for
// them.
func (s *Services) beingCleanedUp() []*v1.Service {
	found, _ := s.real.Informer().GetIndexer().ByIndex(byCleanup, "") // The index exists.
	var services []*v1.Service
	for _, obj := range found {
		services = append(services, obj.(*v1.Service))
	}
	return services
}

// enqueueClaimants enqueues the Services that want one of the ports, except one.
func (s *Services) enqueueClaimants(ports []snapshot.Port, except types.UID) {
	for _, port := range ports {
		found, _ := s.real.Informer().GetIndexer().ByIndex(byPort, port.String()) // The index exists.
		for _, obj := range found {
			if svc := obj.(*v1.Service); svc.UID != except {
				s.Enqueue(nameOf(svc))
			}
		}
	}
}
