package direct

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// takeoverTime is how long the proxies of a Service stay after kube-proxy was given all published
// nodes. kube-proxies program changes within about a second, busy ones within a few.
const takeoverTime = 10 * time.Second

// endpointsTime is how long a new mirror waits before it shows addresses, so that kube-proxies see
// its endpoints first. They sync about once a second; the API server truncates times to seconds.
const endpointsTime = 3 * time.Second

// Cutover is the input of one step of moving a Service between datapaths.
type Cutover struct {
	Service  *v1.Service
	Decision Decision
	Current  State
	Plan     *plan.Plan
	// Nodes are all nodes of the cluster, Sets the Service's proxies.
	Nodes []*v1.Node
	Sets  []publish.ProxySet
	// OtherProxies are proxies of other Services that still have the Service's ports, by port.
	OtherProxies map[snapshot.Port][]*v1.Pod
	// HasProxies reports whether the Service has any object of proxies.
	HasProxies bool
}

// NodesToServe returns the nodes where kube-proxy is to serve a Service.
//   - With datapath direct these are the planned nodes; while a new mirror with UDP ports waits and
//     there are proxies (mirrorDelay), only those that it serves now.
//   - On the way to proxies these are the nodes that it serves now, each until its proxies are ready.
//     One that is not Ready, or not planned any more, is among them only while it is published.
//   - A node where a foreign pod has a port is left out. In mode nftables, where the rules of host
//     ports may come before kube-proxy's, so is a node that is not served yet and where a proxy of
//     another Service, which gave up the port, is still draining.
func (m *Manager) NodesToServe(c Cutover) []*v1.Node {
	join := c.Decision.Direct
	if join && c.Decision.Mirror != nil && c.HasProxies {
		if delay := mirrorDelay(c.Decision.Mirror, time.Now()); delay > 0 {
			m.queue.EnqueueAfter(nameOf(c.Service), delay)
			join = false
		}
	}
	draining := map[string]bool{}
	if mode, _ := m.Mode.Get(); mode == config.KubeProxyNFTables {
		for _, proxies := range c.OtherProxies {
			for _, proxy := range proxies {
				draining[proxy.Spec.NodeName] = true
			}
		}
	}
	proxied := publish.ServingNodes(c.Sets)
	planned, published := c.Plan.NodeNames, publish.NodesIn(c.Service.Status.LoadBalancer, c.Nodes)
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(node *v1.Node) bool {
		served := c.Current.Nodes[node.Name]
		joins := join && planned[node.Name] && (served || !draining[node.Name])
		stays := served && !proxied[node.Name] && (published[node.Name] || planned[node.Name] && publish.NodeReady(node))
		return c.Plan.OccupiedNodes[node.Name] || !joins && !stays
	})
}

// mirrorDelay returns for how long a new mirror with UDP ports of a Service with proxies is not to
// show addresses yet. When kube-proxy sees new endpoints of a UDP port, it deletes conntrack flows
// to the Service's addresses that go elsewhere. If it sees the addresses at the same time, an
// answer of a proxy that is on its way creates a flow from the proxy to the client. The client's
// packets then match this flow even when the proxy is gone, and kube-proxy does not find it. The
// delay compares the API server's clock with ours; if they differ by more than endpointsTime, there
// is no delay.
func mirrorDelay(mirror *v1.Service, now time.Time) time.Duration {
	if !plan.HasUDP(mirror) {
		return 0
	}
	return max(endpointsTime-now.Sub(mirror.CreationTimestamp.Time).Abs(), 0)
}

// KeepMirror keeps a mirror as the Service wants it while it still serves nodes whose proxies are
// not ready, if the API server permits it.
func (m *Manager) KeepMirror(ctx context.Context, svc *v1.Service, current State, p *plan.Plan) error {
	if current.Mirror == nil || len(current.Nodes) == 0 {
		return nil
	}
	if _, _, err := m.Mirrors.Ensure(ctx, svc, p.Mirror); !apierrors.IsForbidden(err) {
		return err
	}
	return nil
}

// Advance writes nodeLocal, as publish.NodeLocalStatus returns it, to the mirror's status. It deletes
// a mirror that is not needed any more. proxiesObsolete is true when kube-proxy has had all nodes that
// are in status, the one to publish, for m.TakeoverTime.
func (m *Manager) Advance(ctx context.Context, c Cutover, status, nodeLocal *v1.LoadBalancerStatus) (proxiesObsolete bool, err error) {
	svc, mirror := c.Service, c.Decision.Mirror
	if mirror == nil {
		mirror = c.Current.Mirror
	}
	if mirror != nil {
		if !c.Decision.Direct && len(nodeLocal.Ingress) == 0 {
			return false, m.DeleteMirror(ctx, svc)
		}
		if err := m.patchMirrorStatus(ctx, svc, mirror, nodeLocal); err != nil {
			return false, err
		}
	}
	if !c.Decision.Direct || !c.HasProxies {
		m.Forget(svc)
		return false, nil
	}
	missing := publish.NodesIn(*status, c.Nodes)
	maps.DeleteFunc(missing, func(name string, _ bool) bool { return c.Current.Nodes[name] })
	if rest := m.takeover.rest(svc.UID, m.TakeoverTime, len(missing) == 0); rest > 0 {
		m.queue.EnqueueAfter(nameOf(svc), rest)
		return false, nil
	}
	klog.FromContext(ctx).V(2).Info("kube-proxy serves all published nodes, deleting the proxies", "service", klog.KObj(svc))
	m.Forget(svc)
	return true, nil
}

// Forget deletes what is remembered of a Service.
func (m *Manager) Forget(svc *v1.Service) { m.takeover.stop(svc.UID) }

// takeoverTimers measure for how long kube-proxy has had all published nodes of Services.
type takeoverTimers struct {
	mu      sync.Mutex
	started map[types.UID]time.Time
}

// rest returns what remains of the duration. It starts again while complete is false.
func (t *takeoverTimers) rest(service types.UID, duration time.Duration, complete bool) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	started, running := t.started[service]
	if !complete || !running {
		started = time.Now()
		t.started[service] = started
	}
	if !complete {
		return duration
	}
	return duration - time.Since(started)
}

func (t *takeoverTimers) stop(service types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.started, service)
}
