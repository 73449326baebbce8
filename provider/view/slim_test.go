package view

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func proxyPod(node string) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "hostport-system", Name: "proxy-" + node, UID: "u", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
			Labels:      map[string]string{plan.LabelServiceUID: "svc", plan.LabelProxySet: "0"},
			Annotations: map[string]string{plan.AnnotationConfigChanged: "2026-01-01T00:00:00Z", "cni": "long"},
		},
		Spec: v1.PodSpec{NodeName: node, Containers: []v1.Container{{
			Name: "proxy", Image: "proxy:1", Args: []string{"--metrics-address=:10270"}, Ports: []v1.ContainerPort{{Name: "tcp-80", HostPort: 80, ContainerPort: 80, Protocol: v1.ProtocolTCP}},
		}}},
	}
	pod.Status = v1.PodStatus{Phase: v1.PodRunning, PodIP: "10.0.0.1", Conditions: []v1.PodCondition{
		{Type: v1.PodReady, Status: v1.ConditionTrue}, {Type: v1.PodInitialized, Status: v1.ConditionTrue}, {Type: v1.PodScheduled, Status: v1.ConditionTrue},
	}}
	return pod
}

func slimmed(t *testing.T, transform func(any) (any, error), pod *v1.Pod) *v1.Pod {
	t.Helper()
	obj, err := transform(pod.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*v1.Pod)
}

func TestASlimProxyIsReadLikeTheWholePod(t *testing.T) {
	waiting := func(pod *v1.Pod) {
		pod.Status.Conditions[0].Status = v1.ConditionFalse
		pod.Status.ContainerStatuses = []v1.ContainerStatus{{Image: "proxy:1", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
	}
	for name, change := range map[string]func(*v1.Pod){
		"ready": func(*v1.Pod) {},
		"ended": func(pod *v1.Pod) {
			pod.Status.Phase, pod.Status.Reason, pod.Status.Message = v1.PodFailed, "Evicted", "no disk"
		},
		"without its image": waiting,
		"terminating":       func(pod *v1.Pod) { pod.DeletionTimestamp = &metav1.Time{} },
		"not scheduled": func(pod *v1.Pod) {
			pod.Spec.NodeName = ""
			pod.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
				NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Values: []string{"n1"}}}}},
			}}}
			pod.Status.Conditions[2] = v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: "didn't have free ports"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := proxyPod("n1")
			change(pod)
			read := func(pod *v1.Pod) string {
				problem, bad := publish.ProblemOf(pod)
				return fmt.Sprint(publish.Ready(pod), publish.Ended(pod), publish.TargetNode(pod), problem, bad, snapshot.HostPorts(pod.Spec),
					publish.Problems([]*v1.Pod{pod}), stateOf(pod), podMatters(pod), pod.Spec.Containers[0].Args, pod.Status.PodIP, pod.Annotations[plan.AnnotationConfigChanged])
			}
			if diff := cmp.Diff(read(pod), read(slimmed(t, SlimOwned(), pod))); diff != "" {
				t.Errorf("the slim pod is read differently (-whole +slim):\n%s", diff)
			}
		})
	}
}

func TestProxiesOfASetShareWhatTheyHaveInCommon(t *testing.T) {
	transform := SlimOwned()
	first, second, changed := slimmed(t, transform, proxyPod("n1")), slimmed(t, transform, proxyPod("n2")), proxyPod("n3")
	changed.Spec.Containers[0].Ports[0].HostPort = 81
	if &first.Spec.Containers[0] != &second.Spec.Containers[0] || first.ManagedFields != nil || len(first.Annotations) != 1 {
		t.Errorf("the pods do not share their containers, or have too much: %v", first)
	}
	if third := slimmed(t, transform, changed); third.Spec.Containers[0].Ports[0].HostPort != 81 || first.Spec.Containers[0].Ports[0].HostPort != 80 {
		t.Errorf("got %v and %v", first.Spec.Containers, third.Spec.Containers)
	}
}
