package plan

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// LetRolloutPass makes a rollout go on although so many nodes can have no ready
// proxy for now. To the DaemonSet controller each of them is one that is being
// replaced, and it would wait for it: a single dead node would keep a new image
// or a new port from all others.
func (s ProxySet) LetRolloutPass(nodes int) {
	s.DaemonSet.Spec.UpdateStrategy = oneByOne(nodes)
}

// oneByOne replaces one proxy at a time, not counting nodes that have none that
// is ready anyhow. A surge would need the same hostPort twice on a node.
func oneByOne(without int) appsv1.DaemonSetUpdateStrategy {
	return appsv1.DaemonSetUpdateStrategy{
		Type:          appsv1.RollingUpdateDaemonSetStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt(1 + without))},
	}
}

// RollsOut says whether a DaemonSet's proxies are being replaced, not counting so
// many nodes that can have none that is ready.
func RollsOut(ds *appsv1.DaemonSet, without int) bool {
	s := ds.Status
	return s.ObservedGeneration < ds.Generation ||
		int(s.DesiredNumberScheduled-s.UpdatedNumberScheduled) > without ||
		int(s.NumberUnavailable) > without
}

// Waits says whether what is wanted of a set of proxies has time until those of
// another have been replaced, lest two nodes are without an address at a time.
// Other ports have none.
func Waits(have, want *appsv1.DaemonSet) bool {
	_, differs := UpdateDaemonSet(have, want)
	return differs && slices.Equal(HostPorts(have.Spec.Template.Spec), HostPorts(want.Spec.Template.Spec))
}

// atRest returns what is wanted of a DaemonSet that has nothing to roll out: to
// write with each node that comes and goes would be for nothing, and the number
// has to be right when the next rollout begins.
func atRest(have, want *appsv1.DaemonSet) *appsv1.DaemonSet {
	rolledOut := have.Status.ObservedGeneration >= have.Generation &&
		have.Status.UpdatedNumberScheduled >= have.Status.DesiredNumberScheduled
	if !rolledOut || !contains(have.Annotations, want.Annotations) || !jsonCovers(have.Spec.Template, want.Spec.Template) {
		return want
	}
	rest := want.DeepCopy()
	rest.Spec.UpdateStrategy = oneByOne(0)
	return rest
}
