package view

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/lru"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// SlimShared keeps out of memory what no controller of the process reads of Services and Nodes, and does
// not write back: who manages which fields, and the images and volumes of nodes. Call it before the
// informers start.
func SlimShared(shared informers.SharedInformerFactory) error {
	if err := shared.Core().V1().Services().Informer().SetTransform(withoutManagedFields); err != nil {
		return err
	}
	return shared.Core().V1().Nodes().Informer().SetTransform(slimNode)
}

func slimNode(obj any) (any, error) {
	if node, ok := obj.(*v1.Node); ok {
		node.ManagedFields = nil
		node.Status.Images, node.Status.VolumesInUse, node.Status.VolumesAttached = nil, nil, nil
		return node, nil
	}
	return obj, nil
}

// maxTemplates is how many sets of proxies share what their pods have in common.
const maxTemplates = 4096

// SlimOwned returns a function that keeps of a proxy what is read of it, and of other objects all but who
// manages which fields. The proxies of a set share what they have in common.
func SlimOwned() cache.TransformFunc {
	templates := lru.New(maxTemplates)
	return func(obj any) (any, error) {
		if pod, ok := obj.(*v1.Pod); ok {
			return slimProxy(pod, templates), nil
		}
		return withoutManagedFields(obj)
	}
}

func withoutManagedFields(obj any) (any, error) {
	if object, ok := obj.(metav1.Object); ok {
		object.SetManagedFields(nil)
	}
	return obj, nil
}

// proxyTemplate is what the proxies of a set have in common. Nobody changes it.
type proxyTemplate struct {
	labels     map[string]string
	containers []v1.Container
}

func slimProxy(pod *v1.Pod, templates *lru.Cache) *v1.Pod {
	template := templateOf(pod, templates)
	slim := &v1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp, Labels: template.labels,
	}}
	if changed, found := pod.Annotations[plan.AnnotationConfigChanged]; found {
		slim.Annotations = map[string]string{plan.AnnotationConfigChanged: changed}
	}
	slim.Spec.NodeName, slim.Spec.Containers = pod.Spec.NodeName, template.containers
	if pod.Spec.NodeName == "" { // Its node is in the affinity.
		slim.Spec.Affinity = pod.Spec.Affinity
	}
	slim.Status = v1.PodStatus{
		Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: pod.Status.Message, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs,
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady || c.Type == v1.PodScheduled {
			slim.Status.Conditions = append(slim.Status.Conditions, c)
		}
	}
	if _, problem := publish.ProblemOf(pod); problem {
		slim.Status.InitContainerStatuses, slim.Status.ContainerStatuses = pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses
	}
	return slim
}

// templateOf returns what a proxy has in common with the last ones of its set.
func templateOf(pod *v1.Pod, templates *lru.Cache) *proxyTemplate {
	key := [2]string{pod.Labels[plan.LabelServiceUID], pod.Labels[plan.LabelProxySet]}
	own := &proxyTemplate{labels: pod.Labels}
	for _, c := range pod.Spec.Containers {
		container := v1.Container{Name: c.Name, Args: c.Args}
		for _, p := range c.Ports {
			container.Ports = append(container.Ports, v1.ContainerPort{HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: p.Protocol})
		}
		own.containers = append(own.containers, container)
	}
	if known, found := templates.Get(key); found && known.(*proxyTemplate).equal(own) {
		return known.(*proxyTemplate)
	}
	templates.Add(key, own)
	return own
}

func (t *proxyTemplate) equal(other *proxyTemplate) bool {
	return maps.Equal(t.labels, other.labels) && slices.EqualFunc(t.containers, other.containers, func(a, b v1.Container) bool {
		return a.Name == b.Name && slices.Equal(a.Args, b.Args) && slices.Equal(a.Ports, b.Ports)
	})
}
