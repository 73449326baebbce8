package provider

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/hostport-ccm/hostport-ccm/provider/direct"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/policy"
	"github.com/hostport-ccm/hostport-ccm/provider/proxies"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// reconciliation is one call of EnsureLoadBalancer. Its fields are set step by step, see run.
type reconciliation struct {
	*loadBalancer
	svc     *v1.Service
	cluster *snapshot.Cluster
	// admit decides whether the Service is admitted among those of cluster.
	admit snapshot.Admit
	// warnings are what is wrong with the Service.
	warnings []events.Warning

	// current is what kube-proxy serves of the Service.
	current direct.State
	// shadowed are foreign pods that ask for a port where kube-proxy already serves it.
	shadowed map[snapshot.Port][]*v1.Pod
	options  options.Options
	plan     *plan.Plan
	decision direct.Decision
	// daemonSets are the proxies' DaemonSets as just applied; with datapath direct, as cached.
	daemonSets []*appsv1.DaemonSet
	// isFull is set if the health of nodes that are not published cannot change the status.
	isFull bool
	// notCreated reports whether proxies with all ports of the plan cannot be created.
	notCreated bool
}

// run performs the steps that make everything a Service should have:
//  1. plan: which nodes and ports, from a snapshot of the cluster;
//  2. conditions: the ports that the Service does not get;
//  3. firewall: close the ports that the Service loses; they are served until that is done;
//  4. datapath: proxies or kube-proxy;
//  5. proxies: DaemonSets and ConfigMaps;
//  6. firewall: allow the others, after the proxies have been created, ready or not;
//  7. status: the addresses that serve, from what is observed;
//  8. cutover: give the published nodes to kube-proxy, and delete what is not needed any more.
//
// It returns the status to publish. After an error the controller retries.
func (r *reconciliation) run(ctx context.Context) (*v1.LoadBalancerStatus, error) {
	for _, message := range options.Unknown(r.svc.Annotations) {
		r.warn(events.UnknownAnnotation, message)
	}
	r.current = r.direct.Current(r.svc, r.cluster.Nodes)
	if err := r.makePlan(); err != nil {
		return r.reject(ctx, err)
	}
	if err := r.patchConditions(r.svc, publish.Conditions(r.svc.Status.Conditions, r.plan.UnservedPorts(), time.Now())); err != nil {
		return nil, err
	}
	if r.plan.Service == nil {
		return r.withdrawAll(ctx)
	}
	closed := r.closeLostPorts(ctx)
	if err := r.decideDatapath(ctx); err != nil {
		unavailable := (*plan.DirectUnavailableError)(nil)
		switch {
		case !errors.As(err, &unavailable):
			return nil, err
		case r.decision.Stopped || r.hasDanglingStatus():
			r.warn(events.InvalidConfiguration, unavailable.Error())
			return r.withdrawAll(ctx)
		}
		return r.reject(ctx, unavailable)
	}
	for _, p := range publish.FieldProblems(r.svc, r.options, r.decision.Direct) {
		r.warn(p.Reason, p.Message)
	}
	if err := r.ensureProxies(ctx); err != nil {
		return nil, err
	}
	allowed := closed && r.ensureFirewall(ctx, r.portsToAllow())
	cutover := r.cutover()
	directNodes := r.direct.NodesToServe(cutover)
	in := r.publishInput(cutover.Sets, directNodes)
	r.recheck(in)
	status := publish.Status(in)
	if !allowed {
		// Addresses that have turned bad must leave meanwhile, so this is no error.
		status = publish.OnlyAlreadyPublished(status, r.svc.Status.LoadBalancer, r.cluster.Nodes)
	}
	r.isFull = publish.IsFull(in, status)
	proxiesObsolete, err := r.direct.Advance(ctx, cutover, status, publish.NodeLocalStatus(in, status))
	if err == nil && proxiesObsolete {
		err = r.proxies.Delete(ctx, r.svc)
	}
	return status, err
}

func (r *reconciliation) warn(reason, message string) {
	r.warnings = append(r.warnings, events.Warning{Reason: reason, Message: message})
}

// reject records why the Service cannot be served as it is. What runs stays as it is, but addresses
// that have turned bad leave the status, and the mirror's. None is added.
func (r *reconciliation) reject(ctx context.Context, err error) (*v1.LoadBalancerStatus, error) {
	r.warn(events.InvalidConfiguration, oneLine(err))
	if r.hasDanglingStatus() {
		return &v1.LoadBalancerStatus{}, nil
	}
	occupied := map[string]bool{}
	occupying, _ := r.foreignPods()
	for _, pods := range occupying {
		for _, pod := range pods {
			occupied[pod.Spec.NodeName] = true
		}
	}
	isEligible := snapshot.Matches(labels.Everything())
	eligible := slices.DeleteFunc(slices.Clone(r.cluster.Nodes), func(n *v1.Node) bool { return !isEligible(n) })
	served := slices.DeleteFunc(slices.Clone(eligible), func(n *v1.Node) bool { return !r.current.Nodes[n.Name] || occupied[n.Name] })
	in := publish.Input{
		Nodes:     eligible,
		Sets:      r.proxies.Observe(r.svc, r.proxies.Cached(r.svc)),
		Direct:    snapshot.Names(served),
		Local:     r.isLocal(len(served) == 0),
		Previous:  r.svc.Status.LoadBalancer,
		Families:  r.svc.Spec.IPFamilies,
		Unreached: r.unreachable(r.svc),
		IPMode:    publish.IPModes(r.direct.Environment(), true, len(served) > 0),
		Now:       time.Now(),
	}
	in.Endpoints, in.ServingEndpoints = r.foreign.EndpointNodes(r.svc)
	in = in.Indexed()
	r.recheck(in)
	status, nodeLocal := publish.StatusOfRefused(in), &v1.LoadBalancerStatus{}
	if r.current.Mirror != nil {
		nodeLocal = publish.OnlyOf(r.current.Mirror.Status.LoadBalancer, served)
	}
	unchanged := direct.Cutover{Service: r.svc, Decision: direct.Decision{Direct: true}, Current: r.current}
	_, err = r.direct.Advance(ctx, unchanged, status, nodeLocal)
	return status, err
}

// withdrawAll deletes what was made for a Service that cannot be served, and its addresses.
func (r *reconciliation) withdrawAll(ctx context.Context) (*v1.LoadBalancerStatus, error) {
	warnings, err := r.withdraw(ctx, r.svc)
	r.warnings = append(r.warnings, warnings...)
	return &v1.LoadBalancerStatus{}, err
}

// recheckNumber is after how long a Service that is one too many is checked again.
const recheckNumber = time.Minute

// makePlan computes what the Service should have. An error means that it asks for something that
// cannot be had.
func (r *reconciliation) makePlan() (err error) {
	if r.options, err = r.admit(r.svc); err != nil {
		if errors.Is(err, policy.ErrTooManyServices) {
			r.services.EnqueueAfter(nameOf(r.svc), recheckNumber)
		}
		return err
	}
	// Nodes that serve the Service now: a taint that repels new pods does not end that.
	running := publish.Running(r.proxies.Pods(r.svc))
	maps.Copy(running, r.current.Nodes)
	var occupying map[snapshot.Port][]*v1.Pod
	occupying, r.shadowed = r.foreignPods()
	r.plan, err = r.settings.Build(plan.Input{
		Service:      r.svc,
		Options:      r.options,
		Cluster:      r.cluster,
		Held:         r.heldPorts(),
		Occupants:    r.occupants(),
		ForeignPods:  occupying,
		OtherProxies: r.proxies.OthersWithPortsOf(r.svc),
		Running:      running,
		Draining:     publish.Draining(r.proxies.Pods(r.svc)),
	})
	if err != nil {
		return err
	}
	if len(r.plan.Conflicts) > 0 {
		r.warn(events.PortConflict, publish.Summary(r.plan.Conflicts))
	}
	if r.plan.NoNodes != "" {
		// The number of nodes that others add or remove is no news, so it is not in the key.
		r.warnings = append(r.warnings, events.Warning{Reason: publish.ReasonUnschedulable, Message: r.plan.NoNodes, Key: "no nodes"})
	}
	r.plan.SetProxiesLabel(publish.AnyOnReadyNode(r.proxies.Pods(r.svc), r.cluster.Nodes))
	return nil
}

// hasDanglingStatus reports whether the Service has addresses although nothing serves it. This
// happens when its mirror was deleted and the next step failed.
func (r *reconciliation) hasDanglingStatus() bool {
	return len(r.proxies.Cached(r.svc)) == 0 && !r.current.Any() && len(r.svc.Status.LoadBalancer.Ingress) > 0
}

// decideDatapath chooses between proxies and kube-proxy. The error is a
// *plan.DirectUnavailableError if the Service requires kube-proxy and cannot have it.
func (r *reconciliation) decideDatapath(ctx context.Context) (err error) {
	hasProxies := len(r.proxies.Cached(r.svc)) > 0
	r.decision, r.current, err = r.direct.Decide(ctx, r.svc, r.options, r.plan, r.current, hasProxies)
	if err != nil {
		return err
	}
	if r.decision.FallbackReason != "" {
		r.warn(events.DatapathFallback, r.decision.FallbackReason)
	}
	if r.decision.StaleReason != "" {
		r.warn(events.InvalidConfiguration, "the latest changes are not served, as "+r.decision.StaleReason)
	}
	if r.decision.Direct {
		for _, message := range slices.Concat(r.plan.Occupied, plan.Shadowed(r.shadowed)) {
			r.warn(events.HostPortConflict, message)
		}
	}
	return nil
}

// ensureProxies makes the proxies, if the Service is to have them. On the way to datapath direct,
// existing ones stay as they are until the cutover is complete.
func (r *reconciliation) ensureProxies(ctx context.Context) error {
	if r.decision.Direct {
		r.daemonSets = r.proxies.Cached(r.svc)
		return nil
	}
	mirrorErr := r.direct.KeepMirror(ctx, r.svc, r.current, r.plan)
	var err error
	r.daemonSets, err = r.proxies.Ensure(ctx, r.svc, r.plan, r.cluster.Nodes)
	if notCreated := (*proxies.NotCreatedError)(nil); errors.As(err, &notCreated) {
		r.warnings = append(r.warnings, events.Warning{Reason: events.ProxyNotCreated, Message: notCreated.Error(), Key: notCreated.Key()})
		r.notCreated, err = true, nil
	}
	if err := errors.Join(mirrorErr, err); err != nil {
		return err
	}
	for _, message := range r.plan.Occupied {
		r.warn(publish.ReasonUnschedulable, message)
	}
	// Where a better explanation is known, the scheduler's is left out.
	explained := len(r.plan.Occupied) > 0 || len(r.plan.Awaited) > 0 || r.plan.NoNodes != ""
	ending := slices.Concat(slices.Collect(maps.Values(r.proxies.OthersWithPortsOf(r.plan.Service)))...)
	pods := r.proxies.Pods(r.svc)
	starting := publish.WithoutWaiting(pods, slices.Concat(pods, ending), time.Now())
	for _, p := range publish.Problems(slices.Concat(starting, r.proxies.Ended(r.svc))) {
		if p.Reason != publish.ReasonUnschedulable || !explained {
			r.warnings = append(r.warnings, events.Warning{Reason: p.Reason, Message: p.Message, Key: p.Reason})
		}
	}
	return nil
}

func (r *reconciliation) cutover() direct.Cutover {
	return direct.Cutover{
		Service: r.svc, Decision: r.decision, Current: r.current, Plan: r.plan, Nodes: r.cluster.Nodes,
		Sets:         r.proxies.Observe(r.svc, r.daemonSets),
		OtherProxies: r.proxies.OthersWithPortsOf(r.plan.Service),
		HasProxies:   r.proxies.CachedAny(r.svc),
	}
}

// isLocal reports whether only nodes with an endpoint answer. Proxies forward to the cluster IP, to
// which the internal traffic policy applies.
func (r *reconciliation) isLocal(byProxies bool) bool {
	internal := r.svc.Spec.InternalTrafficPolicy
	return r.svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal ||
		byProxies && internal != nil && *internal == v1.ServiceInternalTrafficPolicyLocal
}

// publishInput returns what the status depends on. directNodes are those where kube-proxy is to serve.
func (r *reconciliation) publishInput(sets []publish.ProxySet, directNodes []*v1.Node) publish.Input {
	unserved := r.plan.UnservedPorts()
	modes := publish.IPModes(r.direct.Environment(), len(unserved) == 0, len(directNodes) > 0)
	var ports []v1.PortStatus
	if len(unserved) > 0 || len(directNodes) > 0 && modes.Direct != "" {
		ports = publish.Ports(r.svc, unserved)
	}
	in := publish.Input{
		Nodes:     r.plan.Nodes,
		Others:    r.publishedBesidesPlanned(),
		Sets:      sets,
		Direct:    snapshot.Names(directNodes),
		Served:    r.current.Nodes,
		Local:     r.isLocal(!r.decision.Direct),
		Unreached: r.unreachable(r.svc),
		Previous:  r.svc.Status.LoadBalancer,
		Families:  r.svc.Spec.IPFamilies,
		Addresses: r.options.Addresses,
		MaxNodes:  r.options.MaxNodes,
		IPMode:    modes,
		Ports:     ports,
		Now:       time.Now(),
	}
	in.Endpoints, in.ServingEndpoints = r.foreign.EndpointNodes(r.svc)
	return in.Indexed()
}

// publishedBesidesPlanned returns the nodes that the status shows although they are not in the plan.
func (r *reconciliation) publishedBesidesPlanned() []*v1.Node {
	published := r.cluster.NodesIn(r.svc.Status.LoadBalancer)
	return slices.DeleteFunc(published, func(n *v1.Node) bool { return r.plan.NodeNames[n.Name] })
}

// recheck enqueues the Service for when its status may change by time alone.
func (r *reconciliation) recheck(in publish.Input) {
	if d := publish.RecheckAfter(in); d > 0 {
		r.services.EnqueueAfter(nameOf(r.svc), d)
	}
}

// oneLine joins the lines of joined errors for an event.
func oneLine(err error) string {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return err.Error()
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
