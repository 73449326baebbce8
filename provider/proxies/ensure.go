package proxies

import (
	"context"
	"errors"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// rolloutPeriod is after how long to check whether a rollout has finished.
const rolloutPeriod = 2 * time.Second

// Ensure makes the proxies of a Service as planned, and returns its DaemonSets as they then are.
// nodes are all nodes of the cluster. Beside the DaemonSets, there may be a *NotCreatedError.
func (m *Manager) Ensure(ctx context.Context, svc *v1.Service, p *plan.Plan, nodes []*v1.Node) (daemonSets []*appsv1.DaemonSet, err error) {
	assigned, err := m.assignPorts(ctx, svc, p)
	if err != nil {
		return nil, err
	}
	rollingOut, notCreated := false, (*NotCreatedError)(nil)
	for _, set := range p.ProxySets(assigned) {
		if set.DaemonSet == nil {
			if !m.cachedSet(svc, set.Name) {
				continue
			}
			if err := m.deleteSet(ctx, svc, set.Name); err != nil {
				return daemonSets, err
			}
			continue
		}
		unavailable := publish.Unavailable(nodes, p.Nodes, m.podsOf(svc, set.DaemonSet))
		set.TolerateUnavailable(unavailable)
		ds, err := m.ensureSet(ctx, svc, set, rollingOut)
		if err != nil && !errors.As(err, &notCreated) {
			return daemonSets, err
		}
		daemonSets, rollingOut = append(daemonSets, ds), plan.IsRollingOut(ds, unavailable)
	}
	if notCreated != nil {
		return daemonSets, notCreated
	}
	return daemonSets, nil
}

// assignPorts assigns each port of a Service to a proxy set. If anything is to change, it reads the
// DaemonSets that exist from the API server: a stale cache would assign a port twice.
func (m *Manager) assignPorts(ctx context.Context, svc *v1.Service, p *plan.Plan) (plan.Assignment, error) {
	wanted := snapshot.PortsOf(p.Service)
	var current plan.Assignment
	for i, name := range plan.SetNames(svc) {
		if ds, found := m.DaemonSets.Cached(svc, name); found {
			current[i] = snapshot.HostPorts(ds.Spec.Template.Spec)
		}
	}
	if next := plan.AssignPorts(wanted, current); next.Equal(current) {
		return next, nil
	}
	for i, name := range plan.SetNames(svc) {
		ds, found, err := m.DaemonSets.Latest(ctx, svc, name)
		if err != nil {
			return current, err
		}
		if current[i] = nil; found {
			current[i] = snapshot.HostPorts(ds.Spec.Template.Spec)
		}
	}
	return plan.AssignPorts(wanted, current), nil
}

// ensureSet makes one proxy set. The ConfigMap comes first, as pods wait for it. While the other
// set is being replaced (rollingOut), changes that can wait are left for later.
func (m *Manager) ensureSet(ctx context.Context, svc *v1.Service, set plan.ProxySet, rollingOut bool) (*appsv1.DaemonSet, error) {
	_, change, err := m.ConfigMaps.Ensure(ctx, svc, set.ConfigMap)
	if err != nil {
		return nil, err
	}
	if change == objects.Updated {
		m.reloads.request(set.Name, func() []*v1.Pod { return m.podsToReload(svc, set.DaemonSet) })
	}
	if have, found := m.DaemonSets.Cached(svc, set.Name); rollingOut && found && plan.CanWait(have, set.DaemonSet) {
		m.queue.EnqueueAfter(nameOf(svc), rolloutPeriod)
		return have, nil
	}
	return m.applyDaemonSet(ctx, svc, set.DaemonSet)
}

// podsToReload returns the proxies of a set that exists.
func (m *Manager) podsToReload(svc *v1.Service, set *appsv1.DaemonSet) []*v1.Pod {
	if _, found := m.ConfigMaps.Cached(svc, set.Name); !found {
		return nil
	}
	return m.podsOf(svc, set)
}
