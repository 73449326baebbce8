package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// settleTime is how long kube-proxies have to take over from the proxies. They
// program changes within a second or so, a busy one within some.
const settleTime = 10 * time.Second

// firstLook is how long kube-proxies have to see the endpoints of a new mirror. They
// act once a second. Up to a second is lost, as the API server writes whole ones.
const firstLook = 3 * time.Second

// direct is what kube-proxy serves of a Service without proxies, as far as it
// was told already.
type direct struct {
	// mirror is nil if there is none.
	mirror *v1.Service
	nodes  map[string]bool
	// ports are by plan.PortKey.
	ports sets.Set[string]
}

// served reads from memory what is served directly: what the mirror's status
// says, or where mirrors serve nothing the Service's own. There an entry of mode
// VIP that lists ports is one that we wrote for kube-proxy.
func (l *loadBalancer) served(svc *v1.Service, nodes []*v1.Node) direct {
	if mirror, found := l.mirrors.known(svc, plan.Name(svc)); found && l.translated {
		return direct{mirror, publish.Shown(mirror.Status.LoadBalancer, nodes), sets.New(plan.PortKeys(mirror)...)}
	}
	if l.translated {
		return direct{}
	}
	var own v1.LoadBalancerStatus
	var ports []string
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		if entry.IPMode == nil || *entry.IPMode != v1.LoadBalancerIPModeVIP || len(entry.Ports) == 0 {
			continue
		}
		own.Ingress = append(own.Ingress, entry)
		for _, p := range entry.Ports {
			ports = append(ports, plan.PortKey(p.Protocol, p.Port))
		}
	}
	return direct{nil, publish.Shown(own, nodes), sets.New(ports...)}
}

func (d direct) any() bool { return d.mirror != nil || len(d.nodes) > 0 }

// forsaken says that a Service shows addresses where nothing serves it. So one
// is left whose mirror had to go, when what had to follow failed or was cut short.
func (l *loadBalancer) forsaken(svc *v1.Service, now direct) bool {
	return len(l.knownSets(svc)) == 0 && !now.any() && len(svc.Status.LoadBalancer.Ingress) > 0
}

// way is how a Service is to be served from now on.
type way struct {
	direct bool
	// mirror is there if packets carry other addresses than the published ones.
	mirror *v1.Service
	// outdated says why the mirror stays as it was although it differs.
	outdated string
	// fallback says why it is not direct although that was wanted.
	fallback string
	// ended says that it was served directly and must not be any more.
	ended bool
}

// choose decides between the datapaths. What it is unsafe to go on with is gone
// when it returns. The error is a *plan.Obstacle if the Service insists on
// direct and cannot have it.
func (l *loadBalancer) choose(ctx context.Context, svc *v1.Service, o options.Options, p *plan.Plan, now *direct) (way, error) {
	var chosen way
	obstacle := l.cluster().Obstacle(svc, p.Conflicts)
	if obstacle != nil && obstacle.Unsafe && now.any() {
		if err := l.removeMirror(ctx, svc); err != nil {
			return chosen, err
		}
		*now, chosen.ended = direct{}, true
	}
	if !plan.WantsDirect(svc, o) {
		return chosen, nil
	}
	if obstacle == nil && l.translated {
		mirror, _, err := l.mirrors.ensure(ctx, svc, p.Mirror)
		obstacle = mirrorRefused(svc, err)
		switch {
		case obstacle != nil && (now.mirror == nil || apierrors.IsForbidden(err)):
			l.services.PokeAfter(nameOf(svc), recheckRights)
			if l.dependsOnMirror(svc, *now) {
				chosen.mirror, chosen.outdated, obstacle = now.mirror, obstacle.Message, nil
			}
		case err != nil:
			return chosen, err
		default:
			chosen.mirror = mirror
		}
	}
	switch {
	case obstacle == nil:
		chosen.direct = true
	case o.Datapath == options.DatapathDirect:
		return chosen, obstacle
	default:
		chosen.fallback = "the Service is served by datapath proxy, as " + obstacle.Error()
	}
	return chosen, nil
}

// dependsOnMirror says that nothing else serves a Service than its mirror, be it not
// as it should be.
func (l *loadBalancer) dependsOnMirror(svc *v1.Service, now direct) bool {
	return now.mirror != nil && len(now.nodes) > 0 && len(l.knownSets(svc)) == 0
}

func (l *loadBalancer) cluster() plan.Cluster {
	mode, unknown := l.kubeProxy.is()
	return plan.Cluster{KubeProxy: mode, Unknown: unknown, Translated: l.translated, IPMode: l.forcedIPMode}
}

// mirrorRefused explains an API server that does not let us have a mirror, or a
// stranger in its place. It leaves out what changes from try to try. A namespace
// that is going is no reason: its Service goes too.
func mirrorRefused(svc *v1.Service, err error) *plan.Obstacle {
	if taken := (*notOursError)(nil); errors.As(err, &taken) {
		return &plan.Obstacle{Message: taken.Error() + ", or use datapath proxy"}
	}
	var reply apierrors.APIStatus
	if !apierrors.IsForbidden(err) || apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) || !errors.As(err, &reply) {
		return nil
	}
	message := reply.Status().Message
	for _, verb := range []string{"create", "update"} {
		if strings.Contains(message, "cannot "+verb+" resource") {
			return &plan.Obstacle{Message: fmt.Sprintf("hostport-ccm may not %s Services in namespace %s, as its mirror: add the component manifests/components/direct to what you apply, or use datapath proxy", verb, svc.Namespace)}
		}
	}
	if strings.Contains(message, "exceeded quota") {
		message, _, _ = strings.Cut(message, ", used")
		return &plan.Obstacle{Message: fmt.Sprintf("there is no room for its mirror in namespace %s (%s): raise that quota, or use datapath proxy", svc.Namespace, message)}
	}
	return &plan.Obstacle{Message: fmt.Sprintf("the API server refuses its mirror (%s): let it pass, or use datapath proxy", message)}
}

// directNodes returns the nodes where kube-proxy is to serve, none of them where
// it would take a pod's port from it: on the way to the proxies, each until its
// proxies are ready; on the way from them, only if they join. busy are
// those that cannot be served yet.
func directNodes(p *plan.Plan, join bool, all []*v1.Node, sets []publish.Set, now direct, busy map[string]bool) []*v1.Node {
	chosen := publish.Names(p.Nodes)
	return slices.DeleteFunc(slices.Clone(all), func(node *v1.Node) bool {
		joins := join && chosen[node.Name] && (now.nodes[node.Name] || !busy[node.Name])
		stays := now.nodes[node.Name] && !publish.AllReady(sets, node.Name)
		return p.HeldNodes[node.Name] || !joins && !stays
	})
}

// busy returns the names of the nodes where a proxy of another Service still has
// a port that was just given to this one. In mode nftables packets go to that proxy
// until it has drained and is gone.
func (l *loadBalancer) busy(p *plan.Plan) map[string]bool {
	nodes := map[string]bool{}
	if mode, _ := l.kubeProxy.is(); mode != config.KubeProxyNFTables {
		return nodes
	}
	for _, proxies := range l.othersProxies(p.Served) {
		for _, proxy := range proxies {
			nodes[proxy.Spec.NodeName] = true
		}
	}
	return nodes
}

// modes returns the modes of a Service's addresses. For a mirror's addresses its
// own status must not ask the same of kube-proxy.
func (l *loadBalancer) modes(p *plan.Plan, nodes []*v1.Node) publish.IPMode {
	mode, _ := l.kubeProxy.is()
	modes := l.ipMode
	if len(p.Unserved()) > 0 || mode == config.KubeProxyIPVS {
		// kube-proxy would serve a VIP on all ports of the Service, also those
		// that belong to others or to the node; in mode ipvs it would also bind
		// it.
		return publish.IPMode{ExternalIPv4: v1.LoadBalancerIPModeProxy, Other: v1.LoadBalancerIPModeProxy}
	}
	if l.translated && len(nodes) > 0 {
		modes.Other = v1.LoadBalancerIPModeProxy
	}
	return modes
}

// follow makes what kube-proxy is told agree with the status to be published,
// and takes away what is not needed any more: a mirror when all its nodes have
// proxies, the proxies when kube-proxy had time to take over. served are those of
// directNodes.
func (l *loadBalancer) follow(ctx context.Context, svc *v1.Service, w way, now direct, status *v1.LoadBalancerStatus, all, served []*v1.Node) error {
	mirror := w.mirror
	if mirror == nil {
		mirror = now.mirror
	}
	if mirror != nil {
		carried := publish.Carried(status, served, true)
		if !w.direct && len(carried.Ingress) == 0 {
			return l.removeMirror(ctx, svc)
		}
		if err := l.tellMirror(svc, mirror, carried); err != nil {
			return err
		}
	}
	if !w.direct {
		l.settling.forget(svc.UID)
		return nil
	}
	untold := publish.Shown(*status, all)
	maps.DeleteFunc(untold, func(name string, _ bool) bool { return now.nodes[name] })
	return l.retire(ctx, svc, len(untold) == 0)
}

// join says whether nodes may be served directly from now on: not by a mirror that
// is too new, while there are proxies.
func (l *loadBalancer) join(svc *v1.Service, w way) bool {
	if !w.direct || w.mirror == nil || !l.knowsProxies(svc) {
		return w.direct
	}
	wait := tooEarly(w.mirror, time.Now())
	if wait > 0 {
		l.services.PokeAfter(nameOf(svc), wait)
	}
	return wait <= 0
}

// tooEarly returns for how long yet a new mirror is to show no addresses. When a
// kube-proxy sees new endpoints of a UDP port, it has the node forget the flows to
// the Service's addresses that go elsewhere. A proxy whose answer is on its way at
// that moment would begin a flow of its own, from itself to the client, which the
// client's packets then belong to: even when the proxy is gone, since kube-proxy does
// not know it for one to the Service. It goes by two clocks, the API server's and
// ours; where they differ by more, it is not too early.
func tooEarly(mirror *v1.Service, now time.Time) time.Duration {
	age := now.Sub(mirror.CreationTimestamp.Time).Abs()
	if !slices.ContainsFunc(mirror.Spec.Ports, func(p v1.ServicePort) bool { return p.Protocol == v1.ProtocolUDP }) {
		return 0
	}
	return max(firstLook-age, 0)
}

// tellMirror writes a mirror's status where it differs.
func (l *loadBalancer) tellMirror(svc, mirror *v1.Service, want *v1.LoadBalancerStatus) error {
	if servicehelper.LoadBalancerStatusEqual(&mirror.Status.LoadBalancer, want) {
		return nil
	}
	changed := mirror.DeepCopy()
	changed.Status.LoadBalancer = *want
	if _, err := servicehelper.PatchService(l.kube.CoreV1(), mirror, changed); err != nil {
		return fmt.Errorf("writing the status of the mirror of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}

// retire removes the proxies of a Service that is served directly on all nodes
// published, once kube-proxy was told and had time to act.
func (l *loadBalancer) retire(ctx context.Context, svc *v1.Service, told bool) error {
	if !l.knowsProxies(svc) {
		l.settling.forget(svc.UID)
		return nil
	}
	if left := l.settling.left(svc.UID, told); left > 0 {
		l.services.PokeAfter(nameOf(svc), left)
		return nil
	}
	klog.FromContext(ctx).V(2).Info("kube-proxy has taken over, the proxies go", "service", klog.KObj(svc))
	return l.removeProxies(ctx, svc)
}

// settling counts how long kube-proxy has had since it was told everything.
type settling struct {
	time time.Duration

	mu    sync.Mutex
	since map[types.UID]time.Time
}

// left returns how much of the time remains.
func (s *settling) left(service types.UID, told bool) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, counting := s.since[service]
	if !told || !counting {
		if s.since == nil {
			s.since = map[types.UID]time.Time{}
		}
		since = time.Now()
		s.since[service] = since
	}
	if !told {
		return s.time
	}
	return s.time - time.Since(since)
}

func (s *settling) forget(service types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, service)
}

// datapathWarnings tells of a Service that is not served as it asks, and of pods
// with whose host ports it has to do.
func datapathWarnings(w way, p *plan.Plan, late []string) []warning {
	var list []warning
	if w.fallback != "" {
		list = append(list, warning{reason: reasonDatapathFallback, message: w.fallback})
	}
	if w.outdated != "" {
		list = append(list, warning{reason: reasonRefused, message: "what has changed since is not served, as " + w.outdated})
	}
	if !w.direct {
		return list
	}
	for _, sentence := range slices.Concat(p.Held, late) {
		list = append(list, warning{reason: reasonHostPortTaken, message: sentence})
	}
	return list
}
