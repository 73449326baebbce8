package publish

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Problem explains why proxies do not start.
type Problem struct {
	// Reason is an event's reason, one word.
	Reason string
	// Message names the first of the pods, its node, and what to do.
	Message string
}

// Reasons of problems.
const (
	ReasonImage         = "ProxyImageUnavailable"
	ReasonUnschedulable = "ProxyUnschedulable"
	ReasonCrash         = "ProxyNotRunning"
)

// Problems explains which of a Service's proxies cannot start or have ended: one Problem per reason, sorted by
// reason.
func Problems(pods []*v1.Pod) []Problem {
	byReason := map[string][]Problem{}
	for _, pod := range slices.SortedFunc(slices.Values(pods), func(a, b *v1.Pod) int { return strings.Compare(a.Name, b.Name) }) {
		if t, bad := ProblemOf(pod); bad {
			byReason[t.Reason] = append(byReason[t.Reason], t)
		}
	}
	var list []Problem
	for reason, same := range byReason {
		message := same[0].Message
		if more := len(same) - 1; more > 0 {
			message += fmt.Sprintf(" (%d more proxies of this Service have the same problem)", more)
		}
		list = append(list, Problem{reason, message})
	}
	slices.SortFunc(list, func(a, b Problem) int { return cmp.Compare(a.Reason, b.Reason) })
	return list
}

// ProblemOf explains why one proxy cannot start, or has ended, if so.
func ProblemOf(pod *v1.Pod) (Problem, bool) {
	if pod.DeletionTimestamp != nil {
		return Problem{}, false
	}
	if Ended(pod) {
		return Problem{ReasonCrash, ended(pod)}, true
	}
	if c, found := unscheduledCondition(pod); found {
		return Problem{ReasonUnschedulable, unschedulable(pod, c.Message)}, true
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if waiting := status.State.Waiting; waiting != nil {
			return waitingProblem(pod, status, *waiting)
		}
	}
	return Problem{}, false
}

// WithoutWaiting returns pods without those that wait for a host port for a time: until another of the
// proxies on their node ends, and the scheduler has noticed. What remains waits for a proxy that should
// have ended. proxies may contain pods. Pods of others that have a port are reported by package plan.
func WithoutWaiting(pods, proxies []*v1.Pod, now time.Time) []*v1.Pod {
	return filter(pods, func(pod *v1.Pod) bool {
		return !waitsForPort(pod) || slices.ContainsFunc(proxies, func(other *v1.Pod) bool {
			isLate := other.DeletionTimestamp != nil && !now.Before(other.DeletionTimestamp.Time)
			return isLate && other.Spec.NodeName == TargetNode(pod) && missing(snapshot.HostPorts(pod.Spec), other) < len(snapshot.HostPorts(pod.Spec))
		})
	})
}

// ended explains what ended a pod, in the kubelet's words.
func ended(pod *v1.Pod) string {
	cause := strings.Join(strings.Fields(pod.Status.Reason+" "+pod.Status.Message), " ")
	return fmt.Sprintf("proxy pod %s/%s on node %s has ended (%s): it is replaced as soon as the node can run another",
		pod.Namespace, pod.Name, TargetNode(pod), options.Cut(cmp.Or(cause, string(pod.Status.Phase)), maxCause))
}

// maxCause is how many bytes of the kubelet's words are quoted.
const maxCause = 512

// portTaken is part of the scheduler's message about a host port that another pod has:
// k8s.io/kubernetes, pkg/scheduler/framework/plugins/nodeports, ErrReason.
const portTaken = "free ports"

func waitsForPort(pod *v1.Pod) bool {
	c, found := unscheduledCondition(pod)
	return found && strings.Contains(c.Message, portTaken)
}

// unscheduledCondition returns the condition that explains why a pod has no node, if it has none.
func unscheduledCondition(pod *v1.Pod) (v1.PodCondition, bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable {
			return c, true
		}
	}
	return v1.PodCondition{}, false
}

// unschedulable explains the most common cause, a host port that another pod has. For other causes
// it quotes the scheduler.
func unschedulable(pod *v1.Pod, message string) string {
	where := fmt.Sprintf("proxy pod %s/%s cannot be scheduled on node %s", pod.Namespace, pod.Name, TargetNode(pod))
	if strings.Contains(message, portTaken) {
		var ports []string
		for _, port := range snapshot.HostPorts(pod.Spec) {
			ports = append(ports, port.String())
		}
		return fmt.Sprintf("%s: another pod there already has one of the host ports %s; free the port, change the Service's, or select other nodes by annotation %s",
			where, options.List(ports), options.NodeSelector)
	}
	return where + ": " + message
}

// TargetNode returns the node for which the DaemonSet controller created a pod that may not be
// scheduled yet: it sets an affinity for the field metadata.name.
func TargetNode(pod *v1.Pod) string {
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

// waitingProblem explains a container that waits to be started. It leaves out the kubelet's reason
// and message where they change from try to try, since an event with another message is a new
// event.
func waitingProblem(pod *v1.Pod, status v1.ContainerStatus, waiting v1.ContainerStateWaiting) (Problem, bool) {
	where := fmt.Sprintf("proxy pod %s/%s on node %s", pod.Namespace, pod.Name, TargetNode(pod))
	switch waiting.Reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
		return Problem{ReasonImage, fmt.Sprintf("%s cannot get image %s: check that it exists and that the node can pull it, or correct loadBalancer.proxyImage in the cloud config",
			where, options.Quote(status.Image))}, true
	case "CrashLoopBackOff":
		return Problem{ReasonCrash, fmt.Sprintf("%s stops again and again: see kubectl logs -n %s %s", where, pod.Namespace, pod.Name)}, true
	case "", "ContainerCreating", "PodInitializing":
		return Problem{}, false
	}
	return Problem{ReasonCrash, fmt.Sprintf("%s does not start: %s: %s", where, waiting.Reason, waiting.Message)}, true
}
