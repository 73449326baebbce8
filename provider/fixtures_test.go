package provider

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// service returns a Service of type LoadBalancer with port 80/TCP.
func service(name string, change ...func(*v1.Service)) *v1.Service {
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid")},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.7"}, IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports: []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80}},
		},
	}
	for _, c := range change {
		c(svc)
	}
	return svc
}

func ofClass(class string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.LoadBalancerClass = &class }
}

func withAnnotation(annotation, value string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Annotations = map[string]string{annotation: value} }
}

// createdAt sets the creation time, in seconds. The Service with the smaller time is older.
func createdAt(seconds int) func(*v1.Service) {
	return func(svc *v1.Service) { svc.CreationTimestamp = metav1.Time{Time: time.Unix(int64(seconds), 0)} }
}

func tcp(ports ...int32) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.Ports = nil
		for _, port := range ports {
			svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Protocol: v1.ProtocolTCP, Port: port})
		}
	}
}

func withClusterIP(ip string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.ClusterIPs = []string{ip} }
}

// withDatapath requests a datapath, and selects pods, which a mirror requires.
func withDatapath(choice options.DatapathChoice) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.Selector = map[string]string{"app": svc.Name}
		metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.Datapath, string(choice))
	}
}

func policyLocal(svc *v1.Service) {
	svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
}

// node returns a Ready node with one external address.
func node(name, ip string) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelOSStable: "linux"}},
		Spec:       v1.NodeSpec{ProviderID: "gce://p/z/" + name},
		Status: v1.NodeStatus{
			Addresses:  []v1.NodeAddress{{Type: v1.NodeExternalIP, Address: ip}},
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}},
		},
	}
}

// translatedNode returns a node whose external address is translated to an internal one.
func translatedNode(n int) *v1.Node {
	node := node(fmt.Sprint("n", n), fmt.Sprint("203.0.113.", n))
	node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: fmt.Sprint("10.0.0.", n)})
	return node
}

func taint(key string) func(*v1.Node) {
	return func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: key, Effect: v1.TaintEffectNoSchedule}} }
}

// foreignPod returns a pod that is not ours and uses a host port.
func foreignPod(name, node string, port int32) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name},
		Spec: v1.PodSpec{NodeName: node, Containers: []v1.Container{{
			Name: "c", Ports: []v1.ContainerPort{{HostPort: port, ContainerPort: port, Protocol: v1.ProtocolTCP}},
		}}},
	}
}

func ready(pod *v1.Pod) {
	pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
}

func notReady(pod *v1.Pod) {
	pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionFalse}}
}
