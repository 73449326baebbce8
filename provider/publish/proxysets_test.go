package publish

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func madeAgo(d time.Duration) func(*v1.Pod) {
	return func(pod *v1.Pod) { pod.CreationTimestamp = metav1.Time{Time: now.Add(-d)} }
}

func scheduledAgo(d time.Duration) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		pod.Status.Conditions = append(pod.Status.Conditions, v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-d)}})
	}
}

// pending is a pod for node n that has no node, for want of what.
func pending(n int, what string, change ...func(*v1.Pod)) *v1.Pod {
	return pod(n, false, append(change, func(pod *v1.Pod) {
		pod.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Values: []string{pod.Spec.NodeName}}}}},
		}}}
		pod.Spec.NodeName = ""
		pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: what}}
	})...)
}

// The first set serves on both nodes, which are published, the second on the
// other one.
func TestANodeStaysPublishedUntilTheProxyOfASetThatIsNewIsThere(t *testing.T) {
	noImage := func(pod *v1.Pod) {
		pod.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
	}
	const second = time.Second
	for name, c := range map[string]struct {
		age   time.Duration // Of the second set.
		pods  []*v1.Pod
		stays bool
	}{
		"it has no pod yet":                   {age: second, stays: true},
		"it has no pod for long":              {age: NewSetTimeout},
		"it was made by a clock a bit ahead":  {age: -second, stays: true},
		"it was made by a clock far ahead":    {age: -time.Hour},
		"its pod starts":                      {second, []*v1.Pod{pod(1, false, madeAgo(second), scheduledAgo(second))}, true},
		"its pod takes too long":              {2 * NewSetTimeout, []*v1.Pod{pod(1, false, madeAgo(2*NewSetTimeout), scheduledAgo(NewSetTimeout))}, false},
		"its pod waits for the port":          {second, []*v1.Pod{pending(1, "node(s) didn't have free ports", madeAgo(second))}, true},
		"its pod waits for the port for long": {NewSetTimeout, []*v1.Pod{pending(1, "node(s) didn't have free ports", madeAgo(NewSetTimeout))}, false},
		"its pod had to wait, and starts":     {2 * NewSetTimeout, []*v1.Pod{pod(1, false, madeAgo(2*NewSetTimeout), scheduledAgo(second))}, true},
		"its pod fits no node":                {second, []*v1.Pod{pending(1, "Insufficient cpu", madeAgo(second))}, false},
		"its pod gets no image":               {second, []*v1.Pod{pod(1, false, madeAgo(second), noImage)}, false},
		"its pod is stopped":                  {second, []*v1.Pod{pod(1, true, madeAgo(second), stopping)}, false},
		"its pod is not the first":            {time.Hour, []*v1.Pod{pod(1, false, madeAgo(second), scheduledAgo(second))}, false},
		"its pod is ready":                    {time.Hour, []*v1.Pod{pod(1, true, madeAgo(time.Hour))}, true},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{
				Nodes: []*v1.Node{node(1), node(2)}, Previous: published("203.0.113.1", "203.0.113.2"), IPMode: modes, Now: now,
				Sets: []ProxySet{{Pods: []*v1.Pod{pod(1, true), pod(2, true)}}, {Pods: append(c.pods, pod(2, true)), Created: now.Add(-c.age)}},
			}
			want := []string{"203.0.113.2"}
			if c.stays {
				want = []string{"203.0.113.1", "203.0.113.2"}
			}
			if diff := cmp.Diff(want, ips(Status(in))); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
			if awaits := AwaitsNewPorts(in); awaits != (c.stays && !AllReady(in.Sets, "n1")) {
				t.Errorf("awaits new ports: %t", awaits)
			}
			in.Previous = published("203.0.113.2")
			if got := ips(Status(in)); len(got) == 2 && !AllReady(in.Sets, "n1") {
				t.Errorf("a node that was not published is, and does not serve all ports")
			}
			in.Sets[0].Pods = in.Sets[0].Pods[1:]
			in.Previous = published("203.0.113.1", "203.0.113.2")
			if got := ips(Status(in)); len(got) != 1 {
				t.Errorf("%v are published although the first set does not serve on the first node", got)
			}
		})
	}
}
