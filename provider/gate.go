package provider

import (
	"context"
	"slices"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// A gate is a mirror where there are no others. It serves nothing, and is there only
// while nodes pass from kube-proxy in mode nftables to proxies: it holds back new
// connections, for the reason of handOver.

// noticeTime is how long kube-proxies have to notice that nobody new gets in before
// proxies start. They act once a second, and perhaps once before a gate shows addresses.
const noticeTime = 2 * time.Second

// holdTime bounds how long new connections are held back. A proxy takes a second or two
// to start, and some more on a busy node: one whose host port is there before its rules
// must not be let out early.
const holdTime = noticeTime + 10*time.Second

// handOver prepares a Service that kube-proxy serves for proxies, and returns how long
// they have to wait. In mode nftables, the host port of a proxy that is only starting
// goes before kube-proxy, and refuses connections. So new ones are held back from before
// the proxies are begun: their clients repeat the first packet after a second, and after
// two and four more. A node is released when its proxy is ready, as it leaves the status
// of mirror or gate. Where it cannot be done, the proxies start all the same.
func (l *loadBalancer) handOver(ctx context.Context, svc *v1.Service, p *plan.Plan, now direct, nodes []*v1.Node) (time.Duration, error) {
	begun := l.knownSets(svc)
	sets := l.setsOf(svc, begun)
	held := publish.Carried(&svc.Status.LoadBalancer, slices.DeleteFunc(slices.Clone(nodes), func(node *v1.Node) bool {
		return !now.nodes[node.Name] || publish.AllReady(sets, node.Name)
	}), l.translated)
	since := l.heldSince(svc)
	due := len(begun) == 0 && since.IsZero() || left(since, holdTime) > 0
	if !due || len(held.Ingress) == 0 || !l.canHoldBack(svc) {
		return 0, l.letIn(ctx, svc, p, now)
	}
	if since.IsZero() {
		since = time.Now()
	}
	mirror, err := l.holdBack(ctx, svc, p, since, held)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("New connections are not held back while proxies start", "service", klog.KObj(svc), "reason", err.Error())
		return 0, l.letIn(ctx, svc, p, now)
	}
	since = plan.HeldSince(mirror)
	l.services.PokeAfter(nameOf(svc), left(since, holdTime))
	return left(since, noticeTime), nil
}

// heldSince says since when new connections are held back, or were on this way to
// proxies; the zero time if never.
func (l *loadBalancer) heldSince(svc *v1.Service) time.Time {
	if mirror, found := l.mirrors.known(svc, plan.Name(svc)); found {
		return plan.HeldSince(mirror)
	}
	return time.Time{}
}

// left goes by the clock of the replica that holds back; where ours differs by more,
// nothing is left.
func left(since time.Time, of time.Duration) time.Duration { return of - time.Since(since).Abs() }

// canHoldBack is false for a Service with source ranges that has no mirror: kube-proxy
// checks an address for one Service only, for any that asks.
func (l *loadBalancer) canHoldBack(svc *v1.Service) bool {
	mode, _ := l.kubeProxy.is()
	return mode == config.KubeProxyNFTables && (l.translated || len(svc.Spec.LoadBalancerSourceRanges) == 0)
}

// holdBack lets nobody new in through a Service's mirror, or through a gate that shows
// what is held.
func (l *loadBalancer) holdBack(ctx context.Context, svc *v1.Service, p *plan.Plan, since time.Time, held *v1.LoadBalancerStatus) (*v1.Service, error) {
	if l.translated {
		mirror, _, err := l.mirrors.ensure(ctx, svc, plan.HoldBack(p.Mirror, since))
		return mirror, err
	}
	gate, _, err := l.mirrors.ensure(ctx, svc, plan.Gate(p.Mirror, since))
	if err != nil {
		return nil, err
	}
	return gate, l.tellMirror(svc, gate, held)
}

// letIn ends that. As nobody is to be held back again and again where proxies cannot be
// begun, a mirror goes on to say that it has held, and a gate stays until they are,
// showing nothing. While a mirror serves it is kept equal, if it may be.
func (l *loadBalancer) letIn(ctx context.Context, svc *v1.Service, p *plan.Plan, now direct) error {
	if gate, found := l.mirrors.known(svc, plan.Name(svc)); !l.translated && found && len(l.knownSets(svc)) == 0 {
		return l.tellMirror(svc, gate, &v1.LoadBalancerStatus{})
	}
	if !l.translated || len(now.nodes) == 0 {
		return l.openGate(ctx, svc)
	}
	mirror := p.Mirror
	if since := l.heldSince(svc); !since.IsZero() {
		mirror = plan.HasHeld(mirror, since)
	}
	if _, _, err := l.mirrors.ensure(ctx, svc, mirror); !apierrors.IsForbidden(err) {
		return err
	}
	return nil // It serves as it is.
}

// openGate removes a gate.
func (l *loadBalancer) openGate(ctx context.Context, svc *v1.Service) error {
	if _, found := l.mirrors.known(svc, plan.Name(svc)); l.translated || !found {
		return nil
	}
	return l.removeMirror(ctx, svc)
}
