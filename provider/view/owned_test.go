package view

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNodeChangedIgnoresHeartbeats(t *testing.T) {
	nodeWith := func(change func(*v1.Node)) *v1.Node {
		node := &v1.Node{Status: v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}}}
		change(node)
		return node
	}
	for name, c := range map[string]struct {
		change func(*v1.Node)
		want   bool
	}{
		"a heartbeat": {func(n *v1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() }, false},
		"an image":    {func(n *v1.Node) { n.Status.Images = []v1.ContainerImage{{}} }, false},
		"another condition": {func(n *v1.Node) {
			n.Status.Conditions = append(n.Status.Conditions, v1.NodeCondition{Type: v1.NodeDiskPressure})
		}, false},
		"readiness":     {func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionUnknown }, true},
		"an address":    {func(n *v1.Node) { n.Status.Addresses = []v1.NodeAddress{{Address: "x"}} }, true},
		"a label":       {func(n *v1.Node) { n.Labels = map[string]string{"a": "b"} }, true},
		"a taint":       {func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: "a"}} }, true},
		"a cordon":      {func(n *v1.Node) { n.Spec.Unschedulable = true }, true},
		"a provider id": {func(n *v1.Node) { n.Spec.ProviderID = "gce://p/z/n" }, true},
		"a deletion":    {func(n *v1.Node) { n.DeletionTimestamp = &metav1.Time{} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := nodeChanged(nodeWith(func(*v1.Node) {}), nodeWith(c.change)); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestPodChangedReportsReadinessAndFailures(t *testing.T) {
	created, scheduled, ready, failed, ended := &v1.Pod{}, &v1.Pod{}, &v1.Pod{}, &v1.Pod{}, &v1.Pod{}
	ended.Status.Phase = v1.PodFailed
	scheduled.Spec.NodeName = "n1"
	ready.Spec.NodeName = "n1"
	ready.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
	failed.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
	for name, c := range map[string]struct {
		before, after *v1.Pod
		want          bool
	}{
		"a pod is scheduled":      {created, scheduled, false},
		"a pod becomes ready":     {scheduled, ready, true},
		"a pod becomes not ready": {ready, scheduled, true},
		"a pod fails to start":    {scheduled, failed, true},
		"a pod recovers":          {failed, scheduled, true},
		"a pod ends":              {scheduled, ended, true},
		"no change":               {ready, ready, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := podChanged(c.before, c.after); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestADaemonSetChangesWithTheNumberOfPodsThatItLacks(t *testing.T) {
	complete, lacking, ready := &appsv1.DaemonSet{}, &appsv1.DaemonSet{}, &appsv1.DaemonSet{}
	lacking.Status.DesiredNumberScheduled, ready.Status.NumberReady = 1, 1
	if !daemonSetChanged(complete, lacking) || !daemonSetChanged(lacking, complete) || daemonSetChanged(complete, ready) {
		t.Error("want a change of the number of missing pods, and no other change of the status")
	}
}

func TestEditedIgnoresTheStatus(t *testing.T) {
	ds, status, spec, label := &appsv1.DaemonSet{}, &appsv1.DaemonSet{}, &appsv1.DaemonSet{}, &appsv1.DaemonSet{}
	status.Status.NumberReady, spec.Generation, label.Labels = 1, 1, map[string]string{"a": "b"}
	if edited(ds, status) || !edited(ds, spec) || !edited(ds, label) {
		t.Error("DaemonSet: want an edit of spec or labels, not of the status")
	}
	cm, data, version := &v1.ConfigMap{}, &v1.ConfigMap{}, &v1.ConfigMap{}
	data.Data, version.ResourceVersion = map[string]string{"a": "b"}, "2"
	if !edited(cm, data) || edited(cm, version) {
		t.Error("ConfigMap: want an edit of the data, not of the resource version")
	}
}
