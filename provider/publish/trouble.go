package publish

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// Trouble is why proxies do not start.
type Trouble struct {
	// Reason is an event's reason, one word.
	Reason string
	// Message names the first of the pods, its node, and what to fix.
	Message string
}

// Reasons of trouble.
const (
	ReasonImage         = "ProxyImageUnavailable"
	ReasonUnschedulable = "ProxyUnschedulable"
	ReasonCrash         = "ProxyNotRunning"
)

// Troubles looks at a Service's proxies and explains those that cannot start,
// one Trouble per reason however many pods have it, in a fixed order.
func Troubles(pods []*v1.Pod) []Trouble {
	byReason := map[string][]Trouble{}
	for _, pod := range slices.SortedFunc(slices.Values(pods), func(a, b *v1.Pod) int { return strings.Compare(a.Name, b.Name) }) {
		if t, bad := TroubleOf(pod); bad {
			byReason[t.Reason] = append(byReason[t.Reason], t)
		}
	}
	var list []Trouble
	for reason, same := range byReason {
		message := same[0].Message
		if more := len(same) - 1; more > 0 {
			message += fmt.Sprintf(" (%d more proxies of this Service have the same trouble)", more)
		}
		list = append(list, Trouble{reason, message})
	}
	slices.SortFunc(list, func(a, b Trouble) int { return cmp.Compare(a.Reason, b.Reason) })
	return list
}

// TroubleOf explains one proxy, if it cannot start.
func TroubleOf(pod *v1.Pod) (Trouble, bool) {
	if pod.DeletionTimestamp != nil {
		return Trouble{}, false
	}
	if c, found := whyUnscheduled(pod); found {
		return Trouble{ReasonUnschedulable, unschedulable(pod, c.Message)}, true
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if waiting := status.State.Waiting; waiting != nil {
			return waitingTrouble(pod, status, *waiting)
		}
	}
	return Trouble{}, false
}

// portTaken is in the scheduler's words for a hostPort that is taken:
// k8s.io/kubernetes, pkg/scheduler/framework/plugins/nodeports, ErrReason.
const portTaken = "free ports"

// WithoutProxy counts the nodes on which no proxy can become ready until
// something changes there: the node is gone or not Ready, or another pod has the
// port. These are, as the DaemonSet controller counts, among the chosen and those
// that have a pod, even one that will never end, as on a machine that is shut
// down.
func WithoutProxy(all, chosen []*v1.Node, pods []*v1.Pod) int {
	var names, lives []string
	for _, node := range chosen {
		names = append(names, node.Name)
	}
	for _, pod := range pods {
		names = append(names, targetNode(pod))
	}
	for _, node := range filter(all, ready) {
		lives = append(lives, node.Name)
	}
	slices.Sort(names)
	return len(slices.DeleteFunc(slices.Compact(names), func(name string) bool {
		return readyOn(pods, name) || slices.Contains(lives, name) && !slices.ContainsFunc(pods, func(pod *v1.Pod) bool {
			return targetNode(pod) == name && waitsForPort(pod)
		})
	}))
}

func waitsForPort(pod *v1.Pod) bool {
	c, found := whyUnscheduled(pod)
	return found && strings.Contains(c.Message, portTaken)
}

// whyUnscheduled returns why a pod has no node, if it has none.
func whyUnscheduled(pod *v1.Pod) (v1.PodCondition, bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable {
			return c, true
		}
	}
	return v1.PodCondition{}, false
}

// unschedulable explains the commonest cause, a hostPort that is taken.
func unschedulable(pod *v1.Pod, message string) string {
	where := fmt.Sprintf("proxy pod %s/%s cannot be scheduled on node %s", pod.Namespace, pod.Name, targetNode(pod))
	if strings.Contains(message, portTaken) {
		return fmt.Sprintf("%s: another pod there already has one of the host ports %s; free the port, change the Service's, or choose other nodes by annotation hostport-ccm.io/node-selector",
			where, strings.Join(plan.HostPorts(pod.Spec), ", "))
	}
	return where + ": " + message
}

// targetNode is where the DaemonSet controller wants a pod that is not yet
// scheduled: it says so in an affinity for the field metadata.name.
func targetNode(pod *v1.Pod) string {
	if pod.Spec.NodeName != "" || pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil ||
		pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return pod.Spec.NodeName
	}
	for _, term := range pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == "metadata.name" && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// waitingTrouble does not repeat the kubelet's reason and message where they
// change from try to try: an event that changes is a new event.
func waitingTrouble(pod *v1.Pod, status v1.ContainerStatus, waiting v1.ContainerStateWaiting) (Trouble, bool) {
	where := fmt.Sprintf("proxy pod %s/%s on node %s", pod.Namespace, pod.Name, targetNode(pod))
	switch waiting.Reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
		return Trouble{ReasonImage, fmt.Sprintf("%s cannot get image %q: check that it exists and that the node can pull it, or correct loadBalancer.proxyImage in the cloud config",
			where, status.Image)}, true
	case "CrashLoopBackOff":
		return Trouble{ReasonCrash, fmt.Sprintf("%s stops again and again: see kubectl logs -n %s %s", where, pod.Namespace, pod.Name)}, true
	case "", "ContainerCreating", "PodInitializing":
		return Trouble{}, false
	}
	return Trouble{ReasonCrash, fmt.Sprintf("%s does not start: %s: %s", where, waiting.Reason, waiting.Message)}, true
}
