package publish

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func waiting(reason, message string) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		pod.Status.ContainerStatuses = []v1.ContainerStatus{{
			Image: "example.com/proxy:typo",
			State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}},
		}}
	}
}

// asInitContainer turns the container statuses so far into those of init containers.
func asInitContainer(pod *v1.Pod) {
	pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses = pod.Status.ContainerStatuses, nil
}

// unscheduled turns a pod into one of a DaemonSet that cannot be scheduled.
func unscheduled(message string) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		node := pod.Spec.NodeName
		pod.Spec.NodeName = ""
		pod.Spec.Containers = []v1.Container{{Ports: []v1.ContainerPort{{HostPort: 80, Protocol: v1.ProtocolTCP}, {HostPort: 53, Protocol: v1.ProtocolUDP}}}}
		pod.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{node}}}}},
		}}}
		pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: message}}
	}
}

func failedPod(reason, message string) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		pod.Status.Phase, pod.Status.Reason, pod.Status.Message = v1.PodFailed, reason, message
	}
}

func completed(pod *v1.Pod) { pod.Status.Phase = v1.PodSucceeded }

func TestProblemsNameTheCauseAndTheRemedy(t *testing.T) {
	for name, c := range map[string]struct {
		pods   []*v1.Pod
		reason string
		parts  []string
	}{
		"a ready proxy":               {pods: []*v1.Pod{pod(1, true)}},
		"a proxy that is starting":    {pods: []*v1.Pod{pod(1, false, waiting("ContainerCreating", ""))}},
		"a proxy that is terminating": {pods: []*v1.Pod{pod(1, false, waiting("ErrImagePull", ""), stopping)}},
		"an image that does not exist": {
			[]*v1.Pod{pod(2, false, waiting("ImagePullBackOff", "x")), pod(1, false, waiting("ErrImagePull", "y"))},
			ReasonImage, []string{"proxy-1", "node n1", `"example.com/proxy:typo"`, "loadBalancer.proxyImage", "1 more"},
		},
		"an image that does not exist, of the init container": {
			[]*v1.Pod{pod(1, false, waiting("ErrImagePull", ""), asInitContainer, waiting("PodInitializing", ""))},
			ReasonImage, []string{"proxy-1", "loadBalancer.proxyImage"},
		},
		"an evicted proxy": {
			[]*v1.Pod{pod(1, true, failedPod("Evicted", "The node was low on resource: memory. "))},
			ReasonCrash, []string{"proxy-1", "node n1", "(Evicted The node was low on resource: memory.)", "replaced"},
		},
		"an evicted proxy that is deleted": {pods: []*v1.Pod{pod(1, false, failedPod("Evicted", ""), stopping)}},
		"a proxy that completed when its node was shut down": {
			[]*v1.Pod{pod(1, false, completed)}, ReasonCrash, []string{"proxy-1", "(Succeeded)"},
		},
		"a port conflict on the node": {
			[]*v1.Pod{pod(1, false, unscheduled("0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."))},
			ReasonUnschedulable, []string{"proxy-1", "node n1", "53/UDP, 80/TCP", "node-selector"},
		},
		"a node that is full": {
			[]*v1.Pod{pod(1, false, unscheduled("0/3 nodes are available: 1 Insufficient memory."))},
			ReasonUnschedulable, []string{"proxy-1", "node n1", "Insufficient memory"},
		},
		"a proxy that crashes":           {[]*v1.Pod{pod(1, false, waiting("CrashLoopBackOff", ""))}, ReasonCrash, []string{"kubectl logs -n hostport-system proxy-1"}},
		"a proxy that cannot be created": {[]*v1.Pod{pod(1, false, waiting("CreateContainerConfigError", `configmap "x" not found`))}, ReasonCrash, []string{"CreateContainerConfigError", `configmap "x"`}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Problems(c.pods)
			if c.reason == "" {
				if len(got) > 0 {
					t.Errorf("unexpected problems: %v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Reason != c.reason {
				t.Fatalf("got %v, want one %s", got, c.reason)
			}
			for _, part := range c.parts {
				if !strings.Contains(got[0].Message, part) {
					t.Errorf("%q is not in: %s", part, got[0].Message)
				}
			}
		})
	}
}

func TestProblemsOfDifferentKindsAreAllListed(t *testing.T) {
	got := Problems([]*v1.Pod{pod(1, false, waiting("CrashLoopBackOff", "")), pod(2, false, waiting("ErrImagePull", ""))})
	var reasons []string
	for _, problem := range got {
		reasons = append(reasons, problem.Reason)
	}
	if diff := cmp.Diff([]string{ReasonImage, ReasonCrash}, reasons); diff != "" {
		t.Errorf("reasons differ (-want +got):\n%s", diff)
	}
}

func TestUnavailableCountsNodesWithoutAUsableProxy(t *testing.T) {
	noPort := unscheduled("0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.")
	for name, c := range map[string]struct {
		node *v1.Node
		pods []*v1.Pod
		want int
	}{
		"a node that serves":                                          {node(1), []*v1.Pod{pod(1, true)}, 0},
		"a node whose proxy is being replaced":                        {node(1), []*v1.Pod{pod(1, false)}, 0},
		"a node without a proxy yet":                                  {node(1), nil, 0},
		"a node that is not Ready":                                    {node(1, notReady), []*v1.Pod{pod(1, false)}, 1},
		"a node that is not Ready, with a ready proxy":                {node(1, notReady), []*v1.Pod{pod(1, true)}, 0},
		"a node where another pod uses the port":                      {node(1), []*v1.Pod{pod(1, false, noPort)}, 1},
		"a deselected node where another pod uses the port":           {node(1), []*v1.Pod{pod(2, false, noPort)}, 1},
		"a deselected node that is not Ready, with a terminating pod": {node(1), []*v1.Pod{pod(3, true, stopping)}, 1},
		"a deleted node whose pod still exists":                       {node(1), []*v1.Pod{pod(9, false)}, 1},
		"a deselected node with a terminating pod":                    {node(1), []*v1.Pod{pod(2, true, stopping)}, 0},
		"a node that is full": {
			node(1), []*v1.Pod{pod(1, false, unscheduled("0/3 nodes are available: 1 Insufficient memory."))}, 0,
		},
		"a node whose image is missing": {node(1), []*v1.Pod{pod(1, false, waiting("ErrImagePull", ""))}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			others := []*v1.Node{node(2), node(3, notReady)}
			if got := Unavailable(append(others, c.node), []*v1.Node{c.node}, c.pods); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestAProxyThatWaitsForAPortIsAProblemIfAnotherShouldHaveEnded(t *testing.T) {
	waiting := func() *v1.Pod { return pending(1, "node(s) didn't have free ports") }
	ending := func(in time.Duration) func(*v1.Pod) {
		return func(pod *v1.Pod) { pod.DeletionTimestamp = &metav1.Time{Time: now.Add(in)} }
	}
	for name, c := range map[string]struct {
		other   *v1.Pod
		problem bool
	}{
		"one that drains":                 {pod(1, true, ending(time.Minute)), false},
		"one that is about to be deleted": {pod(1, true), false},
		"one that should have ended":      {pod(1, true, ending(-time.Second)), true},
		"one with another port":           {pod(1, true, withPort(81), ending(-time.Second)), false},
		"one on another node":             {pod(2, true, ending(-time.Second)), false},
		"one that waits too":              {waiting(), false},
	} {
		t.Run(name, func(t *testing.T) {
			pods := []*v1.Pod{waiting()}
			if got := len(Problems(WithoutWaiting(pods, append(pods, c.other), now))) > 0; got != c.problem {
				t.Errorf("a problem is reported: %t", got)
			}
		})
	}
	if kept := WithoutWaiting([]*v1.Pod{pending(1, "Insufficient cpu")}, []*v1.Pod{pod(1, true)}, now); len(kept) != 1 {
		t.Error("a proxy is left out that waits for something else")
	}
}
