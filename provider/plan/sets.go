package plan

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
)

// ProxySet is a DaemonSet of proxies with some of a Service's ports, and their
// config. A Service has one, or two where it gained ports in its life: the host
// ports of a pod cannot be changed, and to replace it ends its connections.
type ProxySet struct {
	// Name of both objects.
	Name string
	// DaemonSet and ConfigMap are nil for a set that is not to be.
	DaemonSet *appsv1.DaemonSet
	ConfigMap *v1.ConfigMap
}

// Division says which ports, sorted by PortKey, each of a Service's sets of
// proxies has. One without ports is not there.
type Division [2][]string

// Equal says whether two divisions are the same.
func (d Division) Equal(other Division) bool {
	return slices.Equal(d[0], other[0]) && slices.Equal(d[1], other[1])
}

// Divide gives each port that is wanted to one set, in view of what they have.
// A port stays where it is.
func Divide(wanted []string, have Division) Division {
	var next Division
	gained := sets.New(wanted...)
	for i := range have {
		for _, port := range have[i] {
			if gained.Has(port) {
				gained.Delete(port)
				next[i] = append(next[i], port)
			}
		}
	}
	if len(gained) > 0 {
		to := gaining(have, next)
		next[to] = append(next[to], gained.UnsortedList()...)
		slices.Sort(next[to])
	}
	return next
}

// gaining is the set that takes the ports that none has. A set that is to be
// replaced anyway, as it loses ports, takes them at no price, best one that
// goes on; else it is one that is not there yet; else the second.
func gaining(have, kept Division) int {
	loses := func(i int) bool { return len(kept[i]) < len(have[i]) }
	for _, fits := range []func(int) bool{
		func(i int) bool { return loses(i) && len(kept[i]) > 0 },
		loses,
		func(i int) bool { return len(have[i]) == 0 },
	} {
		for i := range have {
			if fits(i) {
				return i
			}
		}
	}
	return len(have) - 1
}

// Proxies returns the sets of proxies of a Service that gets any of its ports,
// divided like this.
func (p *Plan) Proxies(division Division) []ProxySet {
	var all []ProxySet
	for i, name := range SetNames(p.Served) {
		set := ProxySet{Name: name}
		if part := only(p.Served, division[i]); len(part.Spec.Ports) > 0 {
			set.DaemonSet = p.settings.daemonSet(part, i, p.options)
			set.ConfigMap = p.settings.configMap(part, i, p.options, p.Firewall.SourceRanges)
		}
		all = append(all, set)
	}
	return all
}

// InSet says whether a pod is one of a DaemonSet.
func InSet(ds *appsv1.DaemonSet, pod *v1.Pod) bool {
	return labels.SelectorFromSet(ds.Spec.Selector.MatchLabels).Matches(labels.Set(pod.Labels))
}

// only returns svc with no other ports than these.
func only(svc *v1.Service, keys []string) *v1.Service {
	part := *svc
	part.Spec.Ports = slices.DeleteFunc(Ports(svc), func(p v1.ServicePort) bool {
		return !slices.Contains(keys, PortKey(p.Protocol, p.Port))
	})
	return &part
}
