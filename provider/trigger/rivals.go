package trigger

import (
	"maps"
	"slices"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// pokeRivals pokes the Services that want a port of one that comes, goes or
// changes what it wants.
func (s *Services) pokeRivals() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if svc := obj.(*v1.Service); !initial {
				s.pokeThose(svc.UID, s.claimed(svc))
			}
		},
		UpdateFunc: func(before, after any) {
			old, svc := before.(*v1.Service), after.(*v1.Service)
			had, has := s.claimed(old), s.claimed(svc)
			if !slices.Equal(had, has) || !maps.Equal(old.Annotations, svc.Annotations) {
				s.pokeThose(svc.UID, append(had, has...))
			}
		},
		DeleteFunc: func(obj any) {
			if svc, ok := deleted(obj).(*v1.Service); ok {
				s.pokeThose(svc.UID, s.claimed(svc))
			}
		},
	}
}

// claimed lists the ports that a Service wants of us.
func (s *Services) claimed(svc *v1.Service) []string {
	if shown, visible := s.view.of(svc); visible && wants(shown) {
		return plan.PortKeys(shown)
	}
	return nil
}

// pokeThose pokes all but one Service that want one of the ports.
func (s *Services) pokeThose(but types.UID, ports []string) {
	if len(ports) == 0 {
		return
	}
	for _, svc := range s.wanted() {
		if svc.UID != but && slices.ContainsFunc(plan.PortKeys(svc), func(key string) bool { return slices.Contains(ports, key) }) {
			s.Poke(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
		}
	}
}

// pokeWanting pokes the Services that want a host port of a pod. What a pod
// has is settled when it gets its node, with which it comes into view.
func (s *Services) pokeWanting() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if !initial {
				s.pokeThose("", plan.HostPorts(obj.(*v1.Pod).Spec))
			}
		},
		DeleteFunc: func(obj any) {
			if pod, ok := deleted(obj).(*v1.Pod); ok {
				s.pokeThose("", plan.HostPorts(pod.Spec))
			}
		},
	}
}

// pokeSuccessors pokes the Services that want a host port of another's proxy when
// that is gone.
func (s *Services) pokeSuccessors() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if proxy, ok := deleted(obj).(*v1.Pod); ok {
			s.pokeThose(types.UID(proxy.Labels[plan.LabelServiceUID]), plan.HostPorts(proxy.Spec))
		}
	}}
}

// pokeLocal pokes a Service of policy Local when the nodes of its endpoints
// change.
func (s *Services) pokeLocal() cache.ResourceEventHandler {
	poke := func(obj any) {
		name := serviceOf(obj)
		if svc, err := s.Lister().Services(name.Namespace).Get(name.Name); err == nil && svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
			s.Poke(name)
		}
	}
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if !initial && len(readyNodes(obj)) > 0 {
				poke(obj)
			}
		},
		UpdateFunc: func(before, after any) {
			if !maps.Equal(readyNodes(before), readyNodes(after)) {
				poke(after)
			}
		},
		DeleteFunc: func(obj any) {
			if slice := deleted(obj); slice != nil {
				poke(slice)
			}
		},
	}
}

// pokeMirrored pokes the Service that a mirror was made for when it is written by
// somebody, perhaps us, or goes. Whose it is the mirror as it was knows best: an
// edit may have taken its labels.
func (s *Services) pokeMirrored() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			old := before.(*v1.Service)
			if plan.IsMirror(old) && !equality.Semantic.DeepEqual(old, after) {
				s.Poke(plan.ServiceOf(old))
			}
		},
		DeleteFunc: func(obj any) {
			if svc, ok := deleted(obj).(*v1.Service); ok && plan.IsMirror(svc) {
				s.Poke(plan.ServiceOf(svc))
			}
		},
	}
}
