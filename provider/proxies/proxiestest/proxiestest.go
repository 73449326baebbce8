// Package proxiestest has a fake of proxies.Manager.
package proxiestest

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// Manager manages proxies in memory. Each Service has one proxy set, whose proxies become ready on
// all planned nodes at once. The zero value has no proxies. It is not safe for concurrent use.
type Manager struct {
	// Called is called with the name of each method that changes something, before it does; an error
	// makes the method fail.
	Called func(method string) error

	sets map[types.UID]set
}

type set struct {
	daemonSet *appsv1.DaemonSet
	pods      []*v1.Pod
}

// Ensure creates a ready proxy on each planned node.
func (m *Manager) Ensure(_ context.Context, svc *v1.Service, p *plan.Plan, _ []*v1.Node) ([]*appsv1.DaemonSet, error) {
	if err := m.call("proxies.Ensure"); err != nil {
		return nil, err
	}
	planned := p.ProxySets(plan.AssignPorts(snapshot.PortsOf(p.Service), plan.Assignment{}))[0].DaemonSet
	s := set{daemonSet: planned}
	for _, node := range p.Nodes {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: planned.Name + "-" + node.Name, Labels: planned.Spec.Template.Labels}, Spec: planned.Spec.Template.Spec}
		pod.Spec.NodeName = node.Name
		pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
		s.pods = append(s.pods, pod)
	}
	if m.sets == nil {
		m.sets = map[types.UID]set{}
	}
	m.sets[svc.UID] = s
	return m.Cached(svc), nil
}

// Delete deletes the proxies of a Service.
func (m *Manager) Delete(_ context.Context, svc *v1.Service) error {
	if err := m.call("proxies.Delete"); err != nil {
		return err
	}
	delete(m.sets, svc.UID)
	return nil
}

// NotEnded returns the proxies of the Service: they end at once when they are deleted.
func (m *Manager) NotEnded(_ context.Context, svc *v1.Service, _ []*v1.Node) ([]*v1.Pod, error) {
	return m.Pods(svc), nil
}

func (m *Manager) call(method string) error {
	if m.Called == nil {
		return nil
	}
	return m.Called(method)
}

// Observe returns the proxies of the Service.
func (m *Manager) Observe(svc *v1.Service, daemonSets []*appsv1.DaemonSet) []publish.ProxySet {
	if len(daemonSets) == 0 {
		return nil
	}
	return []publish.ProxySet{{Pods: m.Pods(svc)}}
}

// Pods returns the proxies of the Service.
func (m *Manager) Pods(svc *v1.Service) []*v1.Pod { return m.sets[svc.UID].pods }

// ServicesOn returns the UIDs of the Services that have a proxy on a node.
func (m *Manager) ServicesOn(node string) map[types.UID]bool {
	services := map[types.UID]bool{}
	for uid, s := range m.sets {
		for _, pod := range s.pods {
			if pod.Spec.NodeName == node {
				services[uid] = true
			}
		}
	}
	return services
}

// Ended returns nothing: no proxy ends and stays.
func (m *Manager) Ended(*v1.Service) []*v1.Pod { return nil }

// ServedPorts returns the ports of the Service's proxies by node.
func (m *Manager) ServedPorts(svc *v1.Service) map[string]map[snapshot.Port]bool {
	served := map[string]map[snapshot.Port]bool{}
	for _, pod := range m.Pods(svc) {
		served[pod.Spec.NodeName] = map[snapshot.Port]bool{}
		for _, port := range snapshot.HostPorts(pod.Spec) {
			served[pod.Spec.NodeName][port] = true
		}
	}
	return served
}

// OthersWithPortsOf returns the proxies of other Services that have a port of the Service on a node
// where it has no proxy.
func (m *Manager) OthersWithPortsOf(svc *v1.Service) map[snapshot.Port][]*v1.Pod {
	served, others := m.ServedPorts(svc), map[snapshot.Port][]*v1.Pod{}
	for uid, s := range m.sets {
		for _, pod := range s.pods {
			for _, port := range snapshot.HostPorts(pod.Spec) {
				if uid != svc.UID && !served[pod.Spec.NodeName][port] {
					others[port] = append(others[port], pod)
				}
			}
		}
	}
	for port := range others {
		if !hasPort(svc, port) {
			delete(others, port)
		}
	}
	return others
}

func hasPort(svc *v1.Service, port snapshot.Port) bool {
	for _, p := range snapshot.PortsOf(svc) {
		if p == port {
			return true
		}
	}
	return false
}

// Held returns the nodes of the Service's proxies, if these have the port.
func (m *Manager) Held(svc *v1.Service, port snapshot.Port, _ []*v1.Node) map[string]bool {
	held := map[string]bool{}
	for node, ports := range m.ServedPorts(svc) {
		if ports[port] {
			held[node] = true
		}
	}
	return held
}

// Cached returns the DaemonSet of the Service, if it has one.
func (m *Manager) Cached(svc *v1.Service) []*appsv1.DaemonSet {
	if s, found := m.sets[svc.UID]; found {
		return []*appsv1.DaemonSet{s.daemonSet}
	}
	return nil
}

// CachedAny reports whether the Service has proxies.
func (m *Manager) CachedAny(svc *v1.Service) bool { return len(m.Cached(svc)) > 0 }

// Exist reports whether the Service has proxies.
func (m *Manager) Exist(_ context.Context, svc *v1.Service) (bool, error) {
	return m.CachedAny(svc), nil
}

// Overridden returns nothing: nobody changes the proxies.
func (m *Manager) Overridden(*v1.Service) []string { return nil }
