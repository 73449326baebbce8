package plan

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// ProxySet is a DaemonSet of proxies that have some of a Service's ports, and its ConfigMap. A
// Service has one proxy set, and further ones if it gained ports later: the host ports of a pod
// cannot be changed, and replacing the pods, node by node, ends their connections.
type ProxySet struct {
	// Name of both objects.
	Name string
	// DaemonSet and ConfigMap are nil for a proxy set that is not wanted.
	DaemonSet *appsv1.DaemonSet
	ConfigMap *v1.ConfigMap
}

// maxSets is how many proxy sets a Service can have: each costs a pod per node.
const maxSets = 3

// Assignment is the ports, sorted, of each of a Service's proxy sets. A proxy set without ports
// does not exist.
type Assignment [maxSets][]snapshot.Port

// Equal reports whether two assignments are the same.
func (a Assignment) Equal(other Assignment) bool {
	return slices.EqualFunc(a[:], other[:], slices.Equal)
}

// AssignPorts assigns each wanted port to one proxy set. A port stays in the proxy set that has it.
func AssignPorts(wanted []snapshot.Port, current Assignment) Assignment {
	var next Assignment
	gained := sets.New(wanted...)
	for i := range current {
		for _, port := range current[i] {
			if gained.Has(port) {
				gained.Delete(port)
				next[i] = append(next[i], port)
			}
		}
	}
	if len(gained) > 0 {
		i := setForNewPorts(current, next)
		next[i] = append(next[i], gained.UnsortedList()...)
		slices.SortFunc(next[i], snapshot.Port.Compare)
	}
	return next
}

// setForNewPorts returns the proxy set that takes new ports: one that does not exist, as its proxies
// start on all nodes at once. If there is none, it is one that loses ports and so is replaced
// anyway, preferably one that has no other connections to end; else the last.
func setForNewPorts(current, kept Assignment) int {
	for _, fits := range []func(int) bool{
		func(i int) bool { return len(current[i]) == 0 },
		func(i int) bool { return len(kept[i]) == 0 },
		func(i int) bool { return len(kept[i]) < len(current[i]) },
	} {
		for i := range current {
			if fits(i) {
				return i
			}
		}
	}
	return len(current) - 1
}

// ProxySets returns the proxy sets of a Service that gets any port, with ports as assigned.
func (p *Plan) ProxySets(assigned Assignment) []ProxySet {
	var all []ProxySet
	for i, name := range SetNames(p.Service) {
		set, part, ports := ProxySet{Name: name}, *p.Service, sets.New(assigned[i]...)
		part.Spec.Ports = slices.DeleteFunc(snapshot.ServicePorts(p.Service), func(port v1.ServicePort) bool {
			return !ports.Has(snapshot.PortOf(port))
		})
		if len(part.Spec.Ports) > 0 {
			set.DaemonSet = p.settings.daemonSet(&part, i, p.options, p.withoutNodes)
			set.ConfigMap = p.settings.configMap(&part, i, p.options, p.Firewall.SourceRanges)
		}
		all = append(all, set)
	}
	return all
}

// PodsIn returns those of the pods that are a DaemonSet's.
func PodsIn(ds *appsv1.DaemonSet, pods []*v1.Pod) []*v1.Pod {
	selector := labels.SelectorFromSet(ds.Spec.Selector.MatchLabels)
	var own []*v1.Pod
	for _, pod := range pods {
		if selector.Matches(labels.Set(pod.Labels)) {
			own = append(own, pod)
		}
	}
	return own
}
