package provider

import (
	"context"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// concerned returns the Services that a change of a node may concern, see snapshot.Cluster.Concerned.
func (l *loadBalancer) concerned(change snapshot.NodeChange) []*v1.Service {
	ctx := context.Background() // Nothing is waited for.
	for _, node := range []**v1.Node{&change.Before, &change.After} {
		if *node != nil {
			*node = l.snapshots.shown(ctx, []*v1.Node{*node})[0]
		}
	}
	nodes := change.Nodes()
	hasProxy, addresses := l.proxies.ServicesOn(nodes[0].Name), publish.AddressesOf(nodes)
	cluster, _ := l.snapshots.get(ctx)
	return cluster.Concerned(change, snapshot.Footprint{
		On: func(svc *v1.Service) bool {
			latest := l.services.Latest(nameOf(svc)) // The snapshot may have an older status.
			if hasProxy[svc.UID] || latest == nil || publish.ShowsAny(latest.Status.LoadBalancer, addresses) {
				return true
			}
			mirror := l.direct.Current(latest, nil).Mirror
			return mirror != nil && publish.ShowsAny(mirror.Status.LoadBalancer, addresses)
		},
		IsFull: func(svc *v1.Service) bool {
			_, full := l.full.Load(svc.UID)
			return full
		},
	})
}
