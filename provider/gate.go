package provider

import (
	"context"
	"slices"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// A gate is a mirror where there are no others. It serves nothing, and is there only
// while nodes pass from kube-proxy in mode nftables to proxies: it holds back new
// connections, for the reason of handOver.

// noticeTime is how long kube-proxies have to notice a gate before proxies start. They
// act once a second, and once before the gate shows addresses. Up to a second of it is
// lost, as the API server writes whole ones.
const noticeTime = 2500 * time.Millisecond

// gateTime bounds how long a gate is there.
const gateTime = noticeTime + handOverTime

// holdBack makes a gate before proxies are begun and keeps it while they start. It
// returns how long they have to wait for it: not at all where it may not be made. There
// is none for a Service with source ranges: kube-proxy checks an address for one Service
// only, for any that asks.
func (l *loadBalancer) holdBack(ctx context.Context, svc *v1.Service, p *plan.Plan, now direct, nodes []*v1.Node) (time.Duration, error) {
	begun := l.knownSets(svc)
	sets := l.setsOf(svc, begun)
	held := publish.Carried(&svc.Status.LoadBalancer, slices.DeleteFunc(slices.Clone(nodes), func(node *v1.Node) bool {
		return !now.nodes[node.Name] || publish.AllReady(sets, node.Name)
	}), l.translated)
	mode, _ := l.kubeProxy.is()
	gate, found := l.mirrors.known(svc, plan.Name(svc))
	due := found && left(gate, gateTime) > 0 || !found && len(begun) == 0
	if !due || len(held.Ingress) == 0 || mode != config.KubeProxyNFTables || len(svc.Spec.LoadBalancerSourceRanges) > 0 {
		return 0, l.openGate(ctx, svc)
	}
	gate, _, err := l.mirrors.ensure(ctx, svc, plan.Gate(p.Mirror))
	if err == nil {
		err = l.tellMirror(svc, gate, held)
	}
	if err != nil {
		klog.FromContext(ctx).V(2).Info("New connections are not held back while proxies start", "service", klog.KObj(svc), "reason", err.Error())
		return 0, l.openGate(ctx, svc)
	}
	l.services.PokeAfter(nameOf(svc), left(gate, gateTime))
	return left(gate, noticeTime), nil
}

// left goes by two clocks, as handOverTime does.
func left(gate *v1.Service, of time.Duration) time.Duration {
	return of - time.Since(gate.CreationTimestamp.Time).Abs()
}

// openGate removes a gate.
func (l *loadBalancer) openGate(ctx context.Context, svc *v1.Service) error {
	if _, found := l.mirrors.known(svc, plan.Name(svc)); l.translated || !found {
		return nil
	}
	return l.removeMirror(ctx, svc)
}
