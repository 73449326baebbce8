package trigger

import (
	"maps"

	"k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// Around is what others have in the cluster that matters to our Services: the
// Services' rivals for ports, pods with host ports, and endpoints. Of pods and
// endpoints it keeps in memory only what it can be asked for.
type Around struct {
	services *Services
	pods     cache.SharedIndexInformer
	slices   cache.SharedIndexInformer
}

const (
	byHostPort = "host port"
	byService  = "service"
)

// running selects pods that have a node and are not over; only they hold ports.
const running = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

// WatchAround pokes Services when somebody takes or frees a port that they
// want, when somebody edits or deletes their mirror, and, if their policy is
// Local, when their endpoints move. Call it before the service controller is
// made, and Run afterwards.
func (s *Services) WatchAround(kube kubernetes.Interface) (*Around, error) {
	a := &Around{
		services: s,
		pods: coreinformers.NewFilteredPodInformer(kube, metav1.NamespaceAll, 0, cache.Indexers{byHostPort: hostPortIndex},
			func(o *metav1.ListOptions) { o.FieldSelector = running }),
		slices: discoveryinformers.NewEndpointSliceInformer(kube, metav1.NamespaceAll, 0, cache.Indexers{byService: serviceIndex}),
	}
	for _, source := range []struct {
		informer  cache.SharedIndexInformer
		transform cache.TransformFunc
		handler   cache.ResourceEventHandler
	}{
		{s.real.Informer(), nil, s.pokeRivals()},
		{s.real.Informer(), nil, s.pokeMirrored()},
		{a.pods, slimPod, s.pokeWanting()},
		{a.slices, slimSlice, s.pokeLocal()},
	} {
		if source.transform != nil {
			if err := source.informer.SetTransform(source.transform); err != nil {
				return nil, err
			}
		}
		if _, err := source.informer.AddEventHandler(source.handler); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.synced = append(s.synced, source.informer.HasSynced)
		s.mu.Unlock()
	}
	return a, nil
}

// Run watches until stop is closed.
func (a *Around) Run(stop <-chan struct{}) {
	go a.pods.Run(stop)
	go a.slices.Run(stop)
}

// Services returns all Services that we serve.
func (a *Around) Services() []*v1.Service { return a.services.wanted() }

// Holders returns the pods of others that have a Service's ports on any node,
// by plan.PortKey.
func (a *Around) Holders(svc *v1.Service) map[string][]*v1.Pod {
	holders := map[string][]*v1.Pod{}
	for _, key := range plan.PortKeys(svc) {
		found, _ := a.pods.GetIndexer().ByIndex(byHostPort, key) // The index is there.
		for _, pod := range found {
			holders[key] = append(holders[key], pod.(*v1.Pod))
		}
	}
	return holders
}

// EndpointNodes returns the names of the nodes with a ready endpoint of a
// Service.
func (a *Around) EndpointNodes(svc *v1.Service) map[string]bool {
	found, _ := a.slices.GetIndexer().ByIndex(byService, svc.Namespace+"/"+svc.Name)
	nodes := map[string]bool{}
	for _, slice := range found {
		maps.Copy(nodes, readyNodes(slice))
	}
	return nodes
}

// slimPod keeps a pod's node and host ports. A pod of the host's network has
// its container ports as host ports: the API server sets them.
func slimPod(obj any) (any, error) {
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return obj, nil
	}
	slim := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}}
	slim.Spec.NodeName = pod.Spec.NodeName
	if _, ours := pod.Labels[plan.LabelServiceUID]; ours {
		return slim, nil // Our own proxies are no strangers.
	}
	var ports []v1.ContainerPort
	for _, container := range append(sidecars(pod), pod.Spec.Containers...) {
		for _, p := range container.Ports {
			if p.HostPort > 0 {
				ports = append(ports, v1.ContainerPort{HostPort: p.HostPort, Protocol: p.Protocol})
			}
		}
	}
	if len(ports) > 0 {
		slim.Spec.Containers = []v1.Container{{Ports: ports}}
	}
	return slim, nil
}

// sidecars are the init containers that go on running; the scheduler minds
// their ports as well.
func sidecars(pod *v1.Pod) []v1.Container {
	var list []v1.Container
	for _, container := range pod.Spec.InitContainers {
		if container.RestartPolicy != nil && *container.RestartPolicy == v1.ContainerRestartPolicyAlways {
			list = append(list, container)
		}
	}
	return list
}

func hostPortIndex(obj any) ([]string, error) { return plan.HostPorts(obj.(*v1.Pod).Spec), nil }

// slimSlice keeps which Service a slice belongs to, and per endpoint the node
// and whether it is ready.
func slimSlice(obj any) (any, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return obj, nil
	}
	slim := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: slice.Namespace, Name: slice.Name, UID: slice.UID, ResourceVersion: slice.ResourceVersion,
		Labels: map[string]string{discoveryv1.LabelServiceName: slice.Labels[discoveryv1.LabelServiceName]},
	}}
	for node := range readyNodes(slice) {
		slim.Endpoints = append(slim.Endpoints, discoveryv1.Endpoint{NodeName: &node})
	}
	return slim, nil
}

// readyNodes of a slice. An unknown readiness counts as ready: so says the
// type's documentation.
func readyNodes(obj any) map[string]bool {
	nodes := map[string]bool{}
	for _, endpoint := range obj.(*discoveryv1.EndpointSlice).Endpoints {
		if endpoint.NodeName != nil && (endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready) {
			nodes[*endpoint.NodeName] = true
		}
	}
	return nodes
}

func serviceIndex(obj any) ([]string, error) { return []string{serviceOf(obj).String()}, nil }

func serviceOf(obj any) types.NamespacedName {
	slice := obj.(*discoveryv1.EndpointSlice)
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

// wanted lists the Services of ours, as shown.
func (s *Services) wanted() []*v1.Service {
	shown, _ := s.Lister().List(labels.Everything()) // From memory; never an error.
	var list []*v1.Service
	for _, svc := range shown {
		if wants(svc) {
			list = append(list, svc)
		}
	}
	return list
}
