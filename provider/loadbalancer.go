package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	cloudprovider "k8s.io/cloud-provider"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/firewall/operations"
	"github.com/hostport-ccm/hostport-ccm/provider/direct"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/policy"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

// loadBalancer implements cloudprovider.LoadBalancer. Its methods may be called for different
// Services at the same time. The service controller adds and removes the standard finalizer;
// package view adds ours to the same requests.
type loadBalancer struct {
	settings plan.Settings
	policy   policy.Policy

	kube      kubernetes.Interface
	services  serviceQueue
	foreign   foreignState
	proxies   proxyManager
	direct    directManager
	firewall  firewallReconciler
	events    *events.Recorder
	snapshots snapshots
	// unreachable returns the IP families in which packets to a node's ports do not reach the Service's
	// proxy, by the nodes' names.
	unreachable func(*v1.Service) map[string][]v1.IPFamily
	// full has the UIDs of the Services whose last ensured status is full: see publish.IsFull. A Service
	// that is being ensured is not in it.
	full sync.Map
}

// serviceQueue makes the service controller ensure a Service again. *view.Services is one.
type serviceQueue interface {
	Enqueue(service types.NamespacedName)
	EnqueueAfter(service types.NamespacedName, d time.Duration)
	// Wants reports whether a Service wants a load balancer from us.
	Wants(service types.NamespacedName) bool
	// Latest returns a Service as it is in the cache, or nil.
	Latest(service types.NamespacedName) *v1.Service
	// Newest is Latest, or what was written since.
	Newest(service types.NamespacedName) *v1.Service
	// Wrote says that a Service was written while the cache had the version before.
	Wrote(before string, after *v1.Service)
	// Exists reports whether a Service exists, and not another one of the same name.
	Exists(svc *v1.Service) bool
	// SyncBegins says that a Service is ensured, and StatusUnchanged that it has been and keeps its status.
	SyncBegins(service types.NamespacedName)
	StatusUnchanged(service types.NamespacedName)
}

// foreignState is what others have in the cluster. *view.Foreign is one.
type foreignState interface {
	PodsWithPortsOf(svc *v1.Service) map[snapshot.Port][]*v1.Pod
	EndpointNodes(svc *v1.Service) (ready, serving map[string]bool)
}

// proxyManager manages the proxies of Services. *proxies.Manager is one.
type proxyManager interface {
	Ensure(ctx context.Context, svc *v1.Service, p *plan.Plan, nodes []*v1.Node) ([]*appsv1.DaemonSet, error)
	Observe(svc *v1.Service, daemonSets []*appsv1.DaemonSet) []publish.ProxySet
	Pods(svc *v1.Service) []*v1.Pod
	ServicesOn(node string) map[types.UID]bool
	Ended(svc *v1.Service) []*v1.Pod
	ServedPorts(svc *v1.Service) map[string]map[snapshot.Port]bool
	OthersWithPortsOf(svc *v1.Service) map[snapshot.Port][]*v1.Pod
	Held(svc *v1.Service, port snapshot.Port, nodes []*v1.Node) map[string]bool
	Cached(svc *v1.Service) []*appsv1.DaemonSet
	CachedAny(svc *v1.Service) bool
	Exist(ctx context.Context, svc *v1.Service) (bool, error)
	NotEnded(ctx context.Context, svc *v1.Service, nodes []*v1.Node) ([]*v1.Pod, error)
	Delete(ctx context.Context, svc *v1.Service) error
	Overridden(svc *v1.Service) []string
}

// directManager manages what kube-proxy serves. *direct.Manager is one.
type directManager interface {
	Environment() plan.Environment
	Current(svc *v1.Service, nodes []*v1.Node) direct.State
	Decide(ctx context.Context, svc *v1.Service, o options.Options, p *plan.Plan, current direct.State, proxies bool) (direct.Decision, direct.State, error)
	KeepMirror(ctx context.Context, svc *v1.Service, current direct.State, p *plan.Plan) error
	NodesToServe(c direct.Cutover) []*v1.Node
	Advance(ctx context.Context, c direct.Cutover, status, nodeLocal *v1.LoadBalancerStatus) (proxiesObsolete bool, err error)
	MirrorExists(ctx context.Context, svc *v1.Service) (bool, error)
	DeleteMirror(ctx context.Context, svc *v1.Service) error
	Forget(svc *v1.Service)
	Overridden(svc *v1.Service) []string
}

// firewallReconciler opens and closes ports. *operations.Reconciler is one.
type firewallReconciler interface {
	Ensure(ctx context.Context, spec firewall.Spec, mode firewall.Mode) (operations.Result, error)
	MayAllow(owner firewall.Owner, ports []firewall.Port) bool
	Delete(ctx context.Context, owner firewall.Owner, mode firewall.Mode) error
}

var _ cloudprovider.LoadBalancer = &loadBalancer{}

// GetLoadBalancerName implements cloudprovider.LoadBalancer.
func (l *loadBalancer) GetLoadBalancerName(_ context.Context, _ string, svc *v1.Service) string {
	return plan.Name(svc)
}

// GetLoadBalancer reports whether anything made for a Service may exist. The answer false lets the
// Service be deleted; if the API server fails, there is an error. The firewall is not asked, as it
// is slow: a Service with the finalizer may have rules. One that has our condition counts, so that
// EnsureLoadBalancerDeleted removes it.
func (l *loadBalancer) GetLoadBalancer(ctx context.Context, _ string, svc *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	status := svc.Status.LoadBalancer.DeepCopy()
	hasCondition := svc.DeletionTimestamp == nil && meta.FindStatusCondition(svc.Status.Conditions, v1.LoadBalancerPortsError) != nil
	if servicehelper.HasLBFinalizer(svc) || hasCondition {
		return status, true, nil
	}
	proxies, err := l.proxies.Exist(ctx, svc)
	if err != nil {
		return nil, false, err
	}
	mirror, err := l.direct.MirrorExists(ctx, svc)
	if err != nil {
		return nil, false, err
	}
	return status, proxies || mirror, nil
}

// EnsureLoadBalancer makes everything that a Service should have and returns the status to publish.
// For a Service that asks for something impossible it records an event, and only removes addresses
// that have turned bad. It does not use the nodes that the controller passes: these lack nodes that
// are about to be removed, which may be the last to serve.
func (l *loadBalancer) EnsureLoadBalancer(ctx context.Context, _ string, svc *v1.Service, _ []*v1.Node) (*v1.LoadBalancerStatus, error) {
	l.full.Delete(svc.UID)
	l.services.SyncBegins(nameOf(svc))
	cluster, admit := l.snapshots.get(ctx)
	r := &reconciliation{loadBalancer: l, svc: svc, cluster: cluster, admit: admit}
	status, err := r.run(ctx)
	countSync(err)
	if err == nil && r.isFull {
		l.full.Store(svc.UID, true)
	}
	if err == nil && servicehelper.LoadBalancerStatusEqual(&svc.Status.LoadBalancer, status) {
		l.services.StatusUnchanged(nameOf(svc))
	}
	for _, message := range slices.Concat(l.proxies.Overridden(svc), l.direct.Overridden(svc)) {
		r.warn(events.ObjectOverridden, message)
	}
	l.events.Warn(svc, r.warnings)
	if len(r.warnings) > 0 {
		l.services.EnqueueAfter(nameOf(svc), events.RepeatInterval)
	}
	return status, err
}

// UpdateLoadBalancer enqueues the Service for EnsureLoadBalancer. It cannot return a status itself,
// and svc may be outdated.
func (l *loadBalancer) UpdateLoadBalancer(_ context.Context, _ string, svc *v1.Service, _ []*v1.Node) error {
	l.services.Enqueue(nameOf(svc))
	return nil
}

// EnsureLoadBalancerDeleted deletes everything that was made for a Service. While it returns an
// error, the Service has its finalizers.
func (l *loadBalancer) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *v1.Service) (err error) {
	defer func() { countSync(err) }()
	if err := l.removeAddresses(ctx, svc); err != nil {
		return err
	}
	warnings, err := l.withdraw(ctx, svc)
	l.events.Warn(svc, warnings)
	if err != nil {
		return err
	}
	l.events.Warn(svc, nil) // Forget the warnings of a Service that is gone.
	if err := l.removeConditions(svc); err != nil {
		return err
	}
	return l.awaitProxies(ctx, svc)
}

// removeAddresses empties the status of a Service that is being deleted, which the service
// controller does not: consumers must not wait for its proxies to drain.
func (l *loadBalancer) removeAddresses(ctx context.Context, svc *v1.Service) error {
	newest := l.services.Newest(nameOf(svc))
	isRemoved := newest != nil && newest.UID == svc.UID && len(newest.Status.LoadBalancer.Ingress) == 0
	if svc.DeletionTimestamp == nil || len(svc.Status.LoadBalancer.Ingress) == 0 || isRemoved {
		return nil
	}
	anyVersion := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID}}
	cached := l.services.Latest(nameOf(svc))
	after, err := objects.PatchAddresses(ctx, l.kube.CoreV1(), anyVersion, v1.LoadBalancerStatus{})
	if err == nil && cached != nil {
		l.services.Wrote(cached.ResourceVersion, after)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // It is gone, or another Service by now.
		return fmt.Errorf("removing the addresses of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}

// awaitProxies returns view.ErrDeletionInProgress while proxies of a Service drain. They forward to
// its cluster IP, which the API server may give to another Service as soon as this one is gone.
func (l *loadBalancer) awaitProxies(ctx context.Context, svc *v1.Service) error {
	if !l.services.Exists(svc) {
		return nil // Somebody has removed its finalizers.
	}
	cluster, _ := l.snapshots.get(ctx)
	proxies, err := l.proxies.NotEnded(ctx, svc, cluster.Nodes)
	if err != nil || len(proxies) == 0 {
		return err
	}
	return fmt.Errorf("waiting for %d proxies to end: %w", len(proxies), view.ErrDeletionInProgress)
}

// withdraw deletes what was made for a Service that is to be deleted, that gets none of its ports,
// or that requires datapath direct and cannot have it any more. The firewall comes first, so that
// no port is open without something of ours behind it. It returns the changes that an administrator
// has to make as warnings.
func (l *loadBalancer) withdraw(ctx context.Context, svc *v1.Service) ([]events.Warning, error) {
	warnings, err := l.deleteFirewall(ctx, svc)
	if err != nil {
		return warnings, err
	}
	if err := l.direct.DeleteMirror(ctx, svc); err != nil {
		return warnings, err
	}
	l.direct.Forget(svc)
	l.full.Delete(svc.UID)
	return warnings, l.proxies.Delete(ctx, svc)
}

// deleteFirewall deletes the firewall rules of a Service, or returns the changes that an
// administrator has to make.
func (l *loadBalancer) deleteFirewall(ctx context.Context, svc *v1.Service) ([]events.Warning, error) {
	mode := l.policy.FirewallMode(svc)
	err := l.firewall.Delete(ctx, l.settings.Owner(svc), mode)
	var manual *firewall.ManualChangeError
	switch {
	case mode == firewall.Report && errors.As(err, &manual):
		return manualChangeWarnings(manual), nil
	case errors.Is(err, operations.ErrInProgress):
		return nil, fmt.Errorf("deleting the firewall rules: %w", view.ErrDeletionInProgress)
	case err != nil:
		return nil, fmt.Errorf("deleting the firewall rules: %w", err)
	}
	return nil, nil
}

// removeConditions removes our conditions from a Service that does not want a load balancer any
// more. svc may be outdated, so the cache decides.
func (l *loadBalancer) removeConditions(svc *v1.Service) error {
	if svc.DeletionTimestamp != nil || l.services.Wants(nameOf(svc)) {
		return nil
	}
	err := l.patchConditions(svc, publish.WithoutConditions(svc.Status.Conditions))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// patchConditions writes a Service's conditions if they differ. Like the service controller, which
// writes addresses and finalizers only, it writes the difference, so neither undoes the other's.
func (l *loadBalancer) patchConditions(svc *v1.Service, want []metav1.Condition) error {
	if equality.Semantic.DeepEqual(svc.Status.Conditions, want) {
		return nil
	}
	changed := svc.DeepCopy()
	changed.Status.Conditions = want
	if _, err := servicehelper.PatchService(l.kube.CoreV1(), svc, changed); err != nil {
		return fmt.Errorf("writing the conditions of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}

func nameOf(svc *v1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
