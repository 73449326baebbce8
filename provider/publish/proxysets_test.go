package publish

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func createdAgo(d time.Duration) func(*v1.Pod) {
	return func(pod *v1.Pod) { pod.CreationTimestamp = metav1.Time{Time: now.Add(-d)} }
}

func scheduledAgo(d time.Duration) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		pod.Status.Conditions = append(pod.Status.Conditions, v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-d)}})
	}
}

// pending returns a pod for node n that cannot be scheduled.
func pending(n int, message string, change ...func(*v1.Pod)) *v1.Pod {
	return pod(n, false, append(change, func(pod *v1.Pod) {
		pod.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Values: []string{pod.Spec.NodeName}}}}},
		}}}
		pod.Spec.NodeName = ""
		pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: message}}
	})...)
}

// Both nodes are published. The first set serves on both, the second set on the second node only.
func TestANodeStaysPublishedWhileTheProxyOfANewSetStarts(t *testing.T) {
	noImage := func(pod *v1.Pod) {
		pod.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
	}
	const second = time.Second
	for name, c := range map[string]struct {
		age   time.Duration // Of the second set.
		pods  []*v1.Pod
		stays bool
	}{
		"the set has no pod yet":                                {age: second, stays: true},
		"the set has no pod until the timeout":                  {age: NewSetTimeout},
		"the set was created by a clock that is slightly ahead": {age: -second, stays: true},
		"the set was created by a clock that is far ahead":      {age: -time.Hour},
		"its pod starts":                                        {second, []*v1.Pod{pod(1, false, createdAgo(second), scheduledAgo(second))}, true},
		"its pod does not start until the timeout":              {2 * NewSetTimeout, []*v1.Pod{pod(1, false, createdAgo(2*NewSetTimeout), scheduledAgo(NewSetTimeout))}, false},
		"its pod waits for the port":                            {second, []*v1.Pod{pending(1, "node(s) didn't have free ports", createdAgo(second))}, true},
		"its pod waits for the port until the timeout":          {NewSetTimeout, []*v1.Pod{pending(1, "node(s) didn't have free ports", createdAgo(NewSetTimeout))}, false},
		"its pod starts after it waited for the port":           {2 * NewSetTimeout, []*v1.Pod{pod(1, false, createdAgo(2*NewSetTimeout), scheduledAgo(second))}, true},
		"its pod fits no node":                                  {second, []*v1.Pod{pending(1, "Insufficient cpu", createdAgo(second))}, false},
		"its image cannot be pulled":                            {second, []*v1.Pod{pod(1, false, createdAgo(second), noImage)}, false},
		"its pod is terminating":                                {second, []*v1.Pod{pod(1, true, createdAgo(second), stopping)}, false},
		"its pod was recreated":                                 {time.Hour, []*v1.Pod{pod(1, false, createdAgo(second), scheduledAgo(second))}, false},
		"its pod is ready":                                      {time.Hour, []*v1.Pod{pod(1, true, createdAgo(time.Hour))}, true},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{
				Nodes: []*v1.Node{node(1), node(2)}, Previous: published("203.0.113.1", "203.0.113.2"), IPMode: modes, Now: now,
				Sets: []ProxySet{setOf(pod(1, true), pod(2, true)), {Pods: append(c.pods, pod(2, true)), Ports: []snapshot.Port{web}, Created: now.Add(-c.age)}},
			}
			want := []string{"203.0.113.2"}
			if c.stays {
				want = []string{"203.0.113.1", "203.0.113.2"}
			}
			if diff := cmp.Diff(want, ips(Status(in))); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
			if after := RecheckAfter(in); (after == NewSetTimeout) != (c.stays && !ServingNodes(in.Sets)["n1"]) {
				t.Errorf("the status is computed again after %s", after)
			}
			in.Previous = published("203.0.113.2")
			if got := ips(Status(in)); len(got) == 2 && !ServingNodes(in.Sets)["n1"] {
				t.Errorf("a new node is published that does not serve all ports")
			}
			in.Sets[0].Pods = in.Sets[0].Pods[1:]
			in.Previous = published("203.0.113.1", "203.0.113.2")
			if got := ips(Status(in)); len(got) != 1 {
				t.Errorf("%v are published although the first set does not serve on the first node", got)
			}
		})
	}
}

func TestAProxyServesOnlyIfItHasAllPortsOfItsSet(t *testing.T) {
	for name, c := range map[string]struct {
		created time.Duration // Before now, the set.
		pods    []*v1.Pod
		want    []string
	}{
		"nodes with the earlier port leave when another has the new one": {
			time.Hour, []*v1.Pod{pod(1, true, withPort(81)), pod(2, true)}, []string{"203.0.113.2"},
		},
		"all stay while none has the new port": {
			time.Hour, []*v1.Pod{pod(1, true, withPort(81)), pod(2, true, withPort(81))}, []string{"203.0.113.1", "203.0.113.2"},
		},
		"all stay while the first proxies with new ports start": {
			time.Second, []*v1.Pod{pod(1, false, createdAgo(time.Second)), pod(2, true)}, []string{"203.0.113.1", "203.0.113.2"},
		},
		"one leaves whose proxy does not start": {
			time.Hour, []*v1.Pod{pod(1, false, createdAgo(time.Second)), pod(2, true)}, []string{"203.0.113.2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{
				Nodes: []*v1.Node{node(1), node(2)}, Previous: published("203.0.113.1", "203.0.113.2"), IPMode: modes, Now: now,
				Sets: []ProxySet{{Ports: []snapshot.Port{web}, Pods: c.pods, Created: now.Add(-c.created)}},
			}
			if diff := cmp.Diff(c.want, ips(Status(in))); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
		})
	}
}

func readyAgo(d time.Duration) func(*v1.Pod) {
	return func(pod *v1.Pod) { pod.Status.Conditions[0].LastTransitionTime = metav1.Time{Time: now.Add(-d)} }
}

func TestTheFirstAddressesWaitForEachOther(t *testing.T) {
	noImage := func(pod *v1.Pod) {
		pod.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
	}
	first, second := "203.0.113.1", "203.0.113.2"
	for name, c := range map[string]struct {
		nodes    []*v1.Node
		pods     []*v1.Pod
		previous []string
		want     []string
	}{
		"none while a proxy starts":               {nil, []*v1.Pod{pod(2, true, readyAgo(time.Second)), pod(1, false, createdAgo(time.Second))}, nil, nil},
		"none while a proxy is yet to be created": {nil, []*v1.Pod{pod(2, true, readyAgo(time.Second))}, nil, nil},
		"all as soon as all serve":                {nil, []*v1.Pod{pod(2, true, readyAgo(time.Second)), pod(1, true, readyAgo(0))}, nil, []string{first, second}},
		"one after two seconds":                   {nil, []*v1.Pod{pod(2, true, readyAgo(firstWait)), pod(1, false, createdAgo(time.Second))}, nil, []string{second}},
		"one if the other's proxy cannot start":   {nil, []*v1.Pod{pod(2, true, readyAgo(time.Second)), pod(1, false, createdAgo(time.Second), noImage)}, nil, []string{second}},
		"one if the other node is down":           {[]*v1.Node{node(1, notReady), node(2)}, []*v1.Pod{pod(2, true, readyAgo(0))}, nil, []string{second}},
		"a published Service does not wait":       {nil, []*v1.Pod{pod(1, true, readyAgo(0)), pod(2, false, noImage)}, []string{second}, []string{first}},
		"what is published stays first":           {nil, []*v1.Pod{pod(1, true, readyAgo(0)), pod(2, true, readyAgo(time.Minute))}, []string{second}, []string{second, first}},
	} {
		t.Run(name, func(t *testing.T) {
			set := setOf(c.pods...)
			set.Created = now.Add(-2 * time.Second)
			in := Input{Nodes: c.nodes, Previous: published(c.previous...), Sets: []ProxySet{set}, Addresses: options.External, IPMode: modes, Now: now}
			if in.Nodes == nil {
				in.Nodes = []*v1.Node{node(1), node(2)}
			}
			if diff := cmp.Diff(c.want, ips(Status(in))); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
			if after := RecheckAfter(in); (after > 0) != (c.want == nil) {
				t.Errorf("the status is computed again after %s", after)
			}
		})
	}
}

func TestNotEndedLeavesOutProxiesWhoseEndMayNeverBeReported(t *testing.T) {
	failed := func(pod *v1.Pod) { pod.Status.Phase = v1.PodFailed }
	unscheduled := func(pod *v1.Pod) { pod.Spec.NodeName = "" }
	for name, c := range map[string]struct {
		pod  *v1.Pod
		want int
	}{
		"a proxy that is ready":               {pod(1, true), 1},
		"a proxy that is terminating":         {pod(1, true, stopping), 1},
		"a proxy that is not ready":           {pod(1, false), 1},
		"a proxy that is not scheduled":       {pod(1, false, unscheduled), 1},
		"a proxy that was evicted":            {pod(1, false, failed), 0},
		"a proxy on a node that is not Ready": {pod(2, true, stopping), 0},
		"a proxy on a node that is gone":      {pod(3, true, stopping), 0},
	} {
		if got := NotEnded([]*v1.Pod{c.pod}, []*v1.Node{node(1), node(2, notReady)}); len(got) != c.want {
			t.Errorf("%s: got %d, want %d", name, len(got), c.want)
		}
	}
}
