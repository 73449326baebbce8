package view

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

func usingHostPort(hostPort int32, protocol v1.Protocol) v1.Container {
	return v1.Container{Image: "big", Ports: []v1.ContainerPort{{HostPort: hostPort, ContainerPort: 1, Protocol: protocol}}}
}

func TestSlimPodKeepsNodeAndHostPorts(t *testing.T) {
	settings := plan.Settings{ClusterID: "alpha", Namespace: "hostport-system"}
	mark := map[string]string{plan.LabelManagedBy: plan.ManagedBy, plan.LabelClusterID: "alpha", plan.LabelServiceUID: "x"}
	always := v1.ContainerRestartPolicyAlways
	sidecar := usingHostPort(7000, v1.ProtocolTCP)
	sidecar.RestartPolicy = &always
	for name, c := range map[string]struct {
		pod  *v1.Pod
		want []string
	}{
		"ports of containers and of sidecars": {
			&v1.Pod{Spec: v1.PodSpec{
				InitContainers: []v1.Container{usingHostPort(6000, v1.ProtocolTCP), sidecar},
				Containers:     []v1.Container{usingHostPort(53, v1.ProtocolUDP), usingHostPort(80, "")},
			}}, []string{"53/UDP", "80/TCP", "7000/TCP"},
		},
		"no port that is not a host port": {&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{usingHostPort(0, v1.ProtocolTCP)}}}, nil},
		"no port of our own proxies": {
			&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: settings.Namespace, Labels: mark}, Spec: v1.PodSpec{Containers: []v1.Container{usingHostPort(80, v1.ProtocolTCP)}}}, nil,
		},
		"ports of a pod elsewhere that has the labels of our proxies": {
			&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Labels: mark}, Spec: v1.PodSpec{Containers: []v1.Container{usingHostPort(80, v1.ProtocolTCP)}}}, []string{"80/TCP"},
		},
		"ports of a pod without the complete mark": {
			&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: settings.Namespace, Labels: map[string]string{plan.LabelServiceUID: "x"}}, Spec: v1.PodSpec{Containers: []v1.Container{usingHostPort(80, v1.ProtocolTCP)}}}, []string{"80/TCP"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.pod.Name, c.pod.Spec.NodeName, c.pod.Annotations = "p", "n1", map[string]string{"long": "text"}
			obj, err := slimPod(settings)(c.pod)
			if err != nil {
				t.Fatal(err)
			}
			slim := obj.(*v1.Pod)
			ports, _ := indexByHostPort(slim)
			if diff := cmp.Diff(c.want, ports); diff != "" {
				t.Errorf("ports differ (-want +got):\n%s", diff)
			}
			if slim.Name != "p" || slim.Spec.NodeName != "n1" || slim.Annotations != nil || len(slim.Spec.InitContainers) > 0 {
				t.Errorf("the slim pod is %v", slim)
			}
			again, _ := slimPod(settings)(slim)
			if diff := cmp.Diff(slim, again); diff != "" {
				t.Errorf("slimming twice gives another pod (-first +second):\n%s", diff)
			}
		})
	}
}

func TestSlimEndpointSliceKeepsNodesOfServingEndpoints(t *testing.T) {
	obj, err := slimEndpointSlice(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-x", Labels: map[string]string{discoveryv1.LabelServiceName: "web", "other": "y"}},
		Endpoints: []discoveryv1.Endpoint{
			{NodeName: ptr.To("n1"), Addresses: []string{"10.0.0.1"}},
			{NodeName: ptr.To("n1"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}},
			{NodeName: ptr.To("n2"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
			{NodeName: ptr.To("n3"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}},
			{},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"n1": true}, readyNodes(obj)); diff != "" {
		t.Errorf("nodes differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"n1": true, "n3": true}, servingNodes(obj)); diff != "" {
		t.Errorf("nodes differ (-want +got):\n%s", diff)
	}
	if got := serviceOf(obj).String(); got != "default/web" {
		t.Errorf("service %s", got)
	}
}
