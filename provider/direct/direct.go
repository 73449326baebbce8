// Package direct makes kube-proxy serve Services on the nodes' own addresses, without proxies.
// Where addresses are not translated, the Service's own status does that, with ipMode VIP. Where a
// cloud translates addresses, a mirror Service has the addresses that packets carry when they
// arrive at a node; what it looks like is computed in package plan.
//
// The package decides between the datapaths (Decide) and moves a live Service from one to the
// other without an outage (cutover.go).
package direct

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// permissionRetry is after how long an operation is retried that the API server refused.
const permissionRetry = 5 * time.Minute

// Enqueuer makes the service controller ensure a Service again.
type Enqueuer interface {
	EnqueueAfter(service types.NamespacedName, d time.Duration)
}

// Manager manages what kube-proxy serves of all Services. Its methods are safe for concurrent use.
type Manager struct {
	// Mirrors and Mode are used by the wiring in package provider.
	Mirrors objects.Store[*v1.Service]
	Mode    *KubeProxyMode
	// TakeoverTime is set by New; tests may shorten it.
	TakeoverTime time.Duration
	kube         kubernetes.Interface
	queue        Enqueuer
	// translated and ipMode are as in plan.Environment.
	translated bool
	ipMode     v1.LoadBalancerIPMode
	takeover   takeoverTimers
}

// New returns a Manager. services lists all Services of the cluster, mirrors among them; translated
// and ipMode are as in plan.Environment.
func New(kube kubernetes.Interface, settings plan.Settings, services corelisters.ServiceLister, mode *KubeProxyMode, translated bool, ipMode v1.LoadBalancerIPMode, queue Enqueuer) *Manager {
	return &Manager{
		Mirrors: objects.Mirrors(kube, settings, services, queue),
		Mode:    mode, kube: kube, queue: queue, translated: translated, ipMode: ipMode,
		TakeoverTime: takeoverTime, takeover: takeoverTimers{started: map[types.UID]time.Time{}},
	}
}

// Environment returns what decides whether kube-proxy can serve Services.
func (m *Manager) Environment() plan.Environment {
	mode, reason := m.Mode.Get()
	return plan.Environment{KubeProxy: mode, UnknownReason: reason, Translated: m.translated, IPMode: m.ipMode}
}

// State is what kube-proxy serves of a Service at present.
type State struct {
	// Mirror is nil if there is none.
	Mirror *v1.Service
	// Nodes are the names of the nodes that are served.
	Nodes map[string]bool
	// Ports are those that are served on these nodes.
	Ports sets.Set[snapshot.Port]
}

// Any reports whether kube-proxy serves anything of the Service.
func (s State) Any() bool { return s.Mirror != nil || len(s.Nodes) > 0 }

// Current returns from the cache what kube-proxy serves: what the mirror's status lists, or without
// mirrors, the entries of the Service's own status that have mode VIP and list ports. These were
// written for kube-proxy.
func (m *Manager) Current(svc *v1.Service, nodes []*v1.Node) State {
	if m.translated {
		mirror, found := m.Mirrors.Cached(svc, plan.Name(svc))
		if !found {
			return State{}
		}
		return State{mirror, publish.NodesIn(mirror.Status.LoadBalancer, nodes), sets.New(snapshot.PortsOf(mirror)...)}
	}
	var forKubeProxy v1.LoadBalancerStatus
	ports := sets.New[snapshot.Port]()
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		if entry.IPMode == nil || *entry.IPMode != v1.LoadBalancerIPModeVIP || len(entry.Ports) == 0 {
			continue
		}
		forKubeProxy.Ingress = append(forKubeProxy.Ingress, entry)
		for _, p := range entry.Ports {
			ports.Insert(snapshot.Port{Protocol: p.Protocol, Number: p.Port})
		}
	}
	return State{nil, publish.NodesIn(forKubeProxy, nodes), ports}
}

// Decision is which datapath a Service gets.
type Decision struct {
	// Direct reports that kube-proxy is to serve the Service.
	Direct bool
	// Mirror makes kube-proxy serve it; nil where addresses are not translated.
	Mirror *v1.Service
	// StaleReason explains why the mirror could not be updated and stays as it is.
	StaleReason string
	// FallbackReason explains why the Service gets proxies although it prefers direct.
	FallbackReason string
	// Stopped reports that kube-proxy served the Service and must not any more.
	Stopped bool
}

// Decide chooses the datapath of a Service, and creates or updates its mirror. It returns what
// kube-proxy is to serve afterwards: if it must not go on, nothing. A mirror has then been deleted;
// without mirrors, kube-proxy stops when the status is written. proxies reports whether
// the Service has any. The error is a *plan.DirectUnavailableError if the Service requires direct
// and cannot have it.
func (m *Manager) Decide(ctx context.Context, svc *v1.Service, o options.Options, p *plan.Plan, current State, proxies bool) (Decision, State, error) {
	var d Decision
	unavailable := m.Environment().CheckDirect(svc, o, p.Conflicts)
	if unavailable != nil && unavailable.MustStop && current.Any() {
		if err := m.DeleteMirror(ctx, svc); err != nil {
			return d, current, err
		}
		current, d.Stopped = State{}, true
	}
	if !m.translated {
		// One from before provider gce was changed to none would still make kube-proxy serve.
		if _, found := m.Mirrors.Cached(svc, plan.Name(svc)); found {
			if err := m.DeleteMirror(ctx, svc); err != nil {
				return d, current, err
			}
		}
	}
	if !plan.WantsDirect(svc, o) {
		return d, current, nil
	}
	if unavailable == nil && m.translated {
		var err error
		if unavailable, err = m.ensureMirror(ctx, svc, p, current, proxies, &d); err != nil {
			return d, current, err
		}
	}
	switch {
	case unavailable == nil:
		d.Direct = true
	case o.Datapath == options.DatapathDirect:
		return d, current, unavailable
	default:
		d.FallbackReason = "the Service is served by datapath proxy, as " + unavailable.Error()
	}
	return d, current, nil
}

// ensureMirror creates or updates the mirror and sets it in d. If the API server refuses that, it
// returns the reason; but if nothing else than an outdated mirror serves the Service, it sets this
// one, with the reason in d.
func (m *Manager) ensureMirror(ctx context.Context, svc *v1.Service, p *plan.Plan, current State, proxies bool, d *Decision) (*plan.DirectUnavailableError, error) {
	mirror, _, err := m.Mirrors.Ensure(ctx, svc, p.Mirror)
	refused := explainRefusal(svc, err)
	switch {
	case refused != nil && (current.Mirror == nil || apierrors.IsForbidden(err)):
		// Retry later. A mirror that alone serves the Service stays as it is.
		m.queue.EnqueueAfter(nameOf(svc), permissionRetry)
		if current.Mirror == nil || len(current.Nodes) == 0 || proxies {
			return refused, nil
		}
		d.Mirror, d.StaleReason = current.Mirror, refused.Message
	case err != nil:
		return nil, err
	default:
		d.Mirror = mirror
	}
	return nil, nil
}

// explainRefusal explains why the API server refuses a mirror, or that an object of another owner
// has its name; nil for other errors. It leaves out details that change from try to try. A
// namespace that is being deleted is no reason, as the Service is deleted too.
func explainRefusal(svc *v1.Service, err error) *plan.DirectUnavailableError {
	if notOurs := (*objects.NotOursError)(nil); errors.As(err, &notOurs) {
		return &plan.DirectUnavailableError{Message: notOurs.Error() + ", or use datapath proxy"}
	}
	var reply apierrors.APIStatus
	if !apierrors.IsForbidden(err) || apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) || !errors.As(err, &reply) {
		return nil
	}
	message := reply.Status().Message
	for _, verb := range []string{"create", "update"} {
		if strings.Contains(message, "cannot "+verb+" resource") {
			return &plan.DirectUnavailableError{Message: fmt.Sprintf("hostport-ccm may not %s Services in namespace %s, as its mirror: add the component manifests/components/direct to what you apply, or use datapath proxy", verb, svc.Namespace)}
		}
	}
	if strings.Contains(message, "exceeded quota") {
		message, _, _ = strings.Cut(message, ", used")
		return &plan.DirectUnavailableError{Message: fmt.Sprintf("the quota of namespace %s does not allow its mirror (%s): raise that quota, or use datapath proxy", svc.Namespace, message)}
	}
	return &plan.DirectUnavailableError{Message: fmt.Sprintf("the API server refuses its mirror (%s): allow it, or use datapath proxy", message)}
}

// MirrorExists reports whether the API server has the mirror of a Service.
func (m *Manager) MirrorExists(ctx context.Context, svc *v1.Service) (bool, error) {
	_, found, err := m.Mirrors.Live(ctx, svc, plan.Name(svc))
	return found, err
}

// Overridden returns a message if others change the mirror of a Service.
func (m *Manager) Overridden(svc *v1.Service) []string { return m.Mirrors.Overridden(svc) }

// DeleteMirror empties the status of a Service's mirror, which makes kube-proxy stop although a
// finalizer may hold the mirror, and deletes it. Without the right to delete Services, it leaves the
// mirror of a Service that is being deleted to Kubernetes' garbage collector, and while the Service
// stays ours, it retries later.
func (m *Manager) DeleteMirror(ctx context.Context, svc *v1.Service) error {
	mirror, found, err := m.Mirrors.Find(ctx, svc, plan.Name(svc))
	if found && len(mirror.Status.LoadBalancer.Ingress) == 0 { // The cache may lack its addresses.
		mirror, found, err = m.Mirrors.Live(ctx, svc, plan.Name(svc))
	}
	if err != nil || !found {
		return err
	}
	if err := m.patchMirrorStatus(ctx, svc, mirror, &v1.LoadBalancerStatus{}); err != nil {
		return err
	}
	err = m.Mirrors.Delete(ctx, svc, plan.Name(svc))
	deleted := svc.DeletionTimestamp != nil
	if !apierrors.IsForbidden(err) || !deleted && svc.Spec.Type != v1.ServiceTypeLoadBalancer {
		return err
	}
	klog.FromContext(ctx).Info("Cannot delete the mirror of a Service", "service", klog.KObj(svc), "reason", err.Error())
	if !deleted {
		m.queue.EnqueueAfter(nameOf(svc), permissionRetry)
	}
	return nil
}

// patchMirrorStatus writes a mirror's status if it differs. It writes only to the mirror that was
// read, or to a later version with the same spec: kube-proxy would serve whatever ports it has.
func (m *Manager) patchMirrorStatus(ctx context.Context, svc, mirror *v1.Service, want *v1.LoadBalancerStatus) error {
	if servicehelper.LoadBalancerStatusEqual(&mirror.Status.LoadBalancer, want) {
		return nil
	}
	_, err := objects.PatchAddresses(ctx, m.kube.CoreV1(), mirror, *want)
	if apierrors.IsConflict(err) {
		live, found, liveErr := m.Mirrors.Live(ctx, svc, mirror.Name)
		if liveErr == nil && found && live.UID == mirror.UID && equality.Semantic.DeepEqual(live.Spec, mirror.Spec) {
			_, err = objects.PatchAddresses(ctx, m.kube.CoreV1(), live, *want)
		}
	}
	if err != nil {
		return fmt.Errorf("writing the status of the mirror of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}

func nameOf(svc *v1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
