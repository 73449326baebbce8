package view

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Foreign watches what others have in the cluster that matters to our Services: pods with host
// ports, and endpoints. It keeps in memory only the fields that it returns.
type Foreign struct {
	pods           cache.SharedIndexInformer
	endpointSlices cache.SharedIndexInformer
}

const (
	byHostPort = "host port"
	byService  = "service"
)

// holdingPorts selects the pods that can hold host ports: those that are scheduled and not
// terminated.
const holdingPorts = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

// WatchForeign enqueues Services when a pod takes or frees a port that they want, when another
// Service that wants their ports changes, and, with policy Local, when the nodes of their endpoints
// change. Call it before the service controller is
// made, and Run afterwards.
func (s *Services) WatchForeign(kube kubernetes.Interface, settings plan.Settings) (*Foreign, error) {
	f := &Foreign{
		pods: coreinformers.NewFilteredPodInformer(kube, metav1.NamespaceAll, 0, cache.Indexers{byHostPort: indexByHostPort},
			func(o *metav1.ListOptions) { o.FieldSelector = holdingPorts }),
		endpointSlices: discoveryinformers.NewEndpointSliceInformer(kube, metav1.NamespaceAll, 0, cache.Indexers{
			byService: func(obj any) ([]string, error) { return []string{serviceOf(obj).String()}, nil },
		}),
	}
	return f, s.addHandlers([]source{
		{s.real.Informer(), nil, s.competitorHandler()},
		{f.pods, slimPod(settings), s.foreignPodHandler()},
		{f.endpointSlices, slimEndpointSlice, s.endpointHandler()},
	})
}

// Run watches until stop is closed.
func (f *Foreign) Run(stop <-chan struct{}) {
	go f.pods.Run(stop)
	go f.endpointSlices.Run(stop)
}

// PodsWithPortsOf returns the foreign pods that have a Service's ports on any node, by port.
func (f *Foreign) PodsWithPortsOf(svc *v1.Service) map[snapshot.Port][]*v1.Pod {
	pods := map[snapshot.Port][]*v1.Pod{}
	for _, port := range snapshot.PortsOf(svc) {
		found, _ := f.pods.GetIndexer().ByIndex(byHostPort, port.String()) // The index exists.
		for _, pod := range found {
			pods[port] = append(pods[port], pod.(*v1.Pod))
		}
	}
	return pods
}

// EndpointNodes returns the names of the nodes with a ready endpoint of a Service, and of those with
// an endpoint that serves, ready or terminating.
func (f *Foreign) EndpointNodes(svc *v1.Service) (ready, serving map[string]bool) {
	found, _ := f.endpointSlices.GetIndexer().ByIndex(byService, nameOf(svc).String()) // The index exists.
	ready, serving = map[string]bool{}, map[string]bool{}
	for _, slice := range found {
		maps.Copy(ready, readyNodes(slice))
		maps.Copy(serving, servingNodes(slice))
	}
	return ready, serving
}

// foreignPodHandler enqueues the Services that want a host port of a pod. A pod is in view from
// when it is scheduled, and its host ports do not change.
func (s *Services) foreignPodHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if !initial {
				s.enqueueClaimants(snapshot.HostPorts(obj.(*v1.Pod).Spec), "")
			}
		},
		DeleteFunc: func(obj any) {
			if pod, ok := unwrapDeleted(obj).(*v1.Pod); ok {
				s.enqueueClaimants(snapshot.HostPorts(pod.Spec), "")
			}
		},
	}
}

// endpointHandler enqueues a Service of policy Local, external or internal, when the nodes of its
// endpoints change.
func (s *Services) endpointHandler() cache.ResourceEventHandler {
	enqueue := func(obj any) {
		name := serviceOf(obj)
		if svc, err := s.Lister().Services(name.Namespace).Get(name.Name); err == nil && (svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal ||
			ptr.Deref(svc.Spec.InternalTrafficPolicy, "") == v1.ServiceInternalTrafficPolicyLocal) {
			s.Enqueue(name)
		}
	}
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if !initial && len(servingNodes(obj)) > 0 {
				enqueue(obj)
			}
		},
		UpdateFunc: func(before, after any) {
			if !maps.Equal(readyNodes(before), readyNodes(after)) || !maps.Equal(servingNodes(before), servingNodes(after)) {
				enqueue(after)
			}
		},
		DeleteFunc: func(obj any) {
			if slice, ok := unwrapDeleted(obj).(*discoveryv1.EndpointSlice); ok {
				enqueue(slice)
			}
		},
	}
}

// slimPod returns a function that keeps a pod's node and host ports, none of our own proxies. A pod
// in the host's network has its container ports as host ports: the API server sets them.
func slimPod(settings plan.Settings) cache.TransformFunc {
	return func(obj any) (any, error) {
		pod, ok := obj.(*v1.Pod)
		if !ok {
			return obj, nil
		}
		slim := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}}
		slim.Spec.NodeName = pod.Spec.NodeName
		if ports := hostPorts(pod); len(ports) > 0 && !settings.IsProxy(pod) {
			slim.Spec.Containers = []v1.Container{{Ports: ports}}
		}
		return slim, nil
	}
}

// hostPorts returns the ports that a pod has while it runs.
func hostPorts(pod *v1.Pod) []v1.ContainerPort {
	containers := pod.Spec.Containers
	for _, container := range pod.Spec.InitContainers {
		// Sidecars keep running, and the scheduler counts their ports too.
		if container.RestartPolicy != nil && *container.RestartPolicy == v1.ContainerRestartPolicyAlways {
			containers = append(containers[:len(containers):len(containers)], container)
		}
	}
	var ports []v1.ContainerPort
	for _, container := range containers {
		for _, p := range container.Ports {
			if p.HostPort > 0 {
				ports = append(ports, v1.ContainerPort{HostPort: p.HostPort, Protocol: p.Protocol})
			}
		}
	}
	return ports
}

func indexByHostPort(obj any) ([]string, error) {
	var ports []string
	for _, port := range snapshot.HostPorts(obj.(*v1.Pod).Spec) {
		ports = append(ports, port.String())
	}
	return ports, nil
}

// slimEndpointSlice keeps an EndpointSlice's Service, the nodes with an endpoint that serves, and
// whether one there is ready.
func slimEndpointSlice(obj any) (any, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return obj, nil
	}
	slim := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: slice.Namespace, Name: slice.Name, UID: slice.UID, ResourceVersion: slice.ResourceVersion,
		Labels: map[string]string{discoveryv1.LabelServiceName: slice.Labels[discoveryv1.LabelServiceName]},
	}}
	ready := readyNodes(slice)
	for node := range servingNodes(slice) {
		slim.Endpoints = append(slim.Endpoints, discoveryv1.Endpoint{NodeName: &node, Conditions: discoveryv1.EndpointConditions{
			Ready: ptr.To(ready[node]), Serving: ptr.To(true),
		}})
	}
	return slim, nil
}

// readyNodes returns the names of the nodes with a ready endpoint of an EndpointSlice. An unknown
// readiness means ready, as the type documents.
func readyNodes(obj any) map[string]bool {
	return nodesWhere(obj, func(c discoveryv1.EndpointConditions) bool { return ptr.Deref(c.Ready, true) })
}

// servingNodes returns the names of the nodes with an endpoint that serves, even if it is terminating.
// An unknown condition is the same as readiness, as the type documents.
func servingNodes(obj any) map[string]bool {
	return nodesWhere(obj, func(c discoveryv1.EndpointConditions) bool { return ptr.Deref(c.Serving, ptr.Deref(c.Ready, true)) })
}

func nodesWhere(obj any, ok func(discoveryv1.EndpointConditions) bool) map[string]bool {
	nodes := map[string]bool{}
	for _, endpoint := range obj.(*discoveryv1.EndpointSlice).Endpoints {
		if endpoint.NodeName != nil && ok(endpoint.Conditions) {
			nodes[*endpoint.NodeName] = true
		}
	}
	return nodes
}

func serviceOf(obj any) types.NamespacedName {
	slice := obj.(*discoveryv1.EndpointSlice)
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}
