package plan

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// TolerateUnavailable makes a rollout continue although this number of nodes can have no ready
// proxy for now. The DaemonSet controller counts each of them as a pod that is being replaced
// and would wait for it: one dead node would keep a new image from all others.
func (s ProxySet) TolerateUnavailable(nodes int) {
	s.DaemonSet.Spec.UpdateStrategy = oneByOne(nodes)
}

// oneByOne replaces one proxy at a time, besides nodes without a ready proxy. A surge would need
// the same host port twice on a node.
func oneByOne(unavailable int) appsv1.DaemonSetUpdateStrategy {
	return appsv1.DaemonSetUpdateStrategy{
		Type:          appsv1.RollingUpdateDaemonSetStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt(1 + unavailable))},
	}
}

// IsRollingOut reports whether a DaemonSet's proxies are being replaced, besides this number of
// nodes that can have no ready proxy.
func IsRollingOut(ds *appsv1.DaemonSet, unavailable int) bool {
	s := ds.Status
	return s.ObservedGeneration < ds.Generation ||
		int(s.DesiredNumberScheduled-s.UpdatedNumberScheduled) > unavailable ||
		int(s.NumberUnavailable) > unavailable
}

// RolledOut reports whether all pods of a DaemonSet are of its latest template, by its status.
func RolledOut(ds *appsv1.DaemonSet) bool {
	return ds.Status.ObservedGeneration >= ds.Generation && ds.Status.UpdatedNumberScheduled >= ds.Status.DesiredNumberScheduled
}

// ReplacesProxies reports whether the change from have to want replaces the proxies. The hash decides,
// not the template, which somebody's admission policy may have changed.
func ReplacesProxies(have, want *appsv1.DaemonSet) bool {
	return have.Annotations[AnnotationSpecHash] != want.Annotations[AnnotationSpecHash]
}

// Missing returns on how many nodes a DaemonSet has no pod although it should, by its status.
func Missing(ds *appsv1.DaemonSet) int {
	if ds.Status.ObservedGeneration < ds.Generation {
		return 0
	}
	return int(ds.Status.DesiredNumberScheduled - ds.Status.CurrentNumberScheduled)
}

// HasOnly reports whether a DaemonSet has no other pods than these, by its status.
func HasOnly(ds *appsv1.DaemonSet, pods []*v1.Pod) bool {
	s := ds.Status
	return s.ObservedGeneration > 0 && s.ObservedGeneration >= ds.Generation &&
		s.CurrentNumberScheduled == s.DesiredNumberScheduled && int(s.CurrentNumberScheduled+s.NumberMisscheduled) <= len(pods)
}

// CanWait reports whether the change from have to want can wait until the other proxy set has been
// replaced, so that no two nodes are without an address at a time. A change of ports cannot.
func CanWait(have, want *appsv1.DaemonSet) bool {
	_, differences := UpdateDaemonSet(have, want)
	return len(differences) > 0 && slices.Equal(snapshot.HostPorts(have.Spec.Template.Spec), snapshot.HostPorts(want.Spec.Template.Spec))
}

// resetIfRolledOut returns want with the usual update strategy if nothing is to be rolled out.
// Writing the strategy whenever a node comes or goes would have no effect, and the number has to be
// right when the next rollout begins.
func resetIfRolledOut(have, want *appsv1.DaemonSet) *appsv1.DaemonSet {
	if !RolledOut(have) || ReplacesProxies(have, want) {
		return want
	}
	reset := want.DeepCopy()
	reset.Spec.UpdateStrategy = oneByOne(0)
	return reset
}
