package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	cloudprovider "k8s.io/cloud-provider"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// poker makes the service controller ensure a Service again.
type poker interface {
	Poke(service types.NamespacedName)
	PokeAfter(service types.NamespacedName, d time.Duration)
	// Resume does so too, or has it go on with a deletion.
	Resume(service types.NamespacedName)
}

// loadBalancer implements cloudprovider.LoadBalancer. Its methods are safe to
// be called for different Services at the same time. The finalizer is not its
// business: see package trigger.
type loadBalancer struct {
	settings plan.Settings
	defaults options.Options
	ipMode   publish.IPMode
	// forcedIPMode is what the cloud config says; empty: nothing.
	forcedIPMode v1.LoadBalancerIPMode
	// translated says that a cloud translates the nodes' external addresses.
	translated bool

	kube       kubernetes.Interface
	nodes      corelisters.NodeLister
	pods       cache.Indexer
	configMaps objects[*v1.ConfigMap]
	daemonSets objects[*appsv1.DaemonSet]
	mirrors    objects[*v1.Service]
	kubeProxy  *kubeProxy
	settling   settling
	openings   *openings
	reporter   *reporter
	services   poker
	// own is there if nodes describe themselves.
	own    *nodeaddress.Reader
	watch  nodeWatch
	around neighbours
}

// neighbours is who else is in the cluster.
type neighbours interface {
	// Services are those that we serve.
	Services() []*v1.Service
	// Holders are the pods of others that have a Service's ports on any node.
	Holders(svc *v1.Service) map[string][]*v1.Pod
	// EndpointNodes are the nodes with a ready endpoint of a Service.
	EndpointNodes(svc *v1.Service) map[string]bool
}

var _ cloudprovider.LoadBalancer = &loadBalancer{}

// GetLoadBalancerName implements cloudprovider.LoadBalancer.
func (l *loadBalancer) GetLoadBalancerName(_ context.Context, _ string, svc *v1.Service) string {
	return plan.Name(svc)
}

// GetLoadBalancer says whether anything may remain of what was made for a
// Service. The answer false lets the Service go; in doubt it is an error. The
// firewall is not asked, as it takes its time: until the finalizer is gone, a
// port may be open.
func (l *loadBalancer) GetLoadBalancer(ctx context.Context, _ string, svc *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	proxies, err := l.findProxies(ctx, svc)
	if err != nil {
		return nil, false, err
	}
	_, mirror, err := l.mirrors.find(ctx, svc, plan.Name(svc))
	if err != nil {
		return nil, false, err
	}
	open := servicehelper.HasLBFinalizer(svc)
	return svc.Status.LoadBalancer.DeepCopy(), proxies || mirror || open || hasConditions(svc), nil
}

// EnsureLoadBalancer makes everything a Service should have, and returns what
// its status should be. A Service that asks for the impossible is told so by an
// event, and stays as it is until it is edited: ImplementedElsewhere makes the
// service controller leave it at that. The nodes that the controller names are
// without those that are on their way out, of which the last may still serve.
func (l *loadBalancer) EnsureLoadBalancer(ctx context.Context, _ string, svc *v1.Service, _ []*v1.Node) (*v1.LoadBalancerStatus, error) {
	nodes, _ := l.nodes.List(labels.Everything()) // From memory; never an error.
	nodes = l.watch.OverlayNotReady(nodes)
	nodes = l.own.AddTo(ctx, nodes)
	var wrong []warning
	defer func() {
		if l.reporter.warn(svc, wrong); len(wrong) > 0 {
			l.services.PokeAfter(nameOf(svc), retell)
		}
	}()
	for _, sentence := range options.Unknown(svc.Annotations) {
		wrong = append(wrong, warning{reason: reasonUnknownAnnotation, message: sentence})
	}
	now := l.served(svc, nodes)
	held, late := l.holders(svc, now)
	o, p, err := l.plan(svc, nodes, plan.Rivals{Pods: held, Proxies: l.othersProxies(svc), Running: l.running(svc, now)})
	if err != nil {
		wrong = append(wrong, warning{reason: reasonRefused, message: oneLine(err)})
		return nil, cloudprovider.ImplementedElsewhere
	}
	wrong = append(wrong, slices.Concat(portWarnings(p), nodeWarnings(p))...)
	if err := l.tellConditions(ctx, svc, p.Unserved()); err != nil {
		return nil, err
	}
	if p.Served == nil {
		told, err := l.withdraw(ctx, svc)
		wrong = append(wrong, told...)
		return &v1.LoadBalancerStatus{}, err
	}
	p.TellOfProxies(publish.Linger(l.proxies(svc), nodes))
	w, err := l.choose(ctx, svc, o, p, &now)
	if obstacle := (*plan.Obstacle)(nil); errors.As(err, &obstacle) {
		wrong = append(wrong, warning{reason: reasonRefused, message: obstacle.Error()})
		if !w.ended && !l.forsaken(svc, now) {
			return nil, cloudprovider.ImplementedElsewhere
		}
		told, err := l.withdraw(ctx, svc)
		wrong = append(wrong, told...)
		return &v1.LoadBalancerStatus{}, err
	}
	if err != nil {
		return nil, err
	}
	wrong = append(wrong, datapathWarnings(w, p, plan.Late(late))...)
	status, told, err := l.serve(ctx, svc, o, p, w, now, nodes)
	wrong = append(wrong, told...)
	return status, err
}

// serve makes what a Service needs on the way chosen.
func (l *loadBalancer) serve(ctx context.Context, svc *v1.Service, o options.Options, p *plan.Plan, w way, now direct, nodes []*v1.Node) (*v1.LoadBalancerStatus, []warning, error) {
	daemonSets, err := l.run(ctx, svc, p, w, now, nodes)
	if err != nil {
		return nil, nil, err
	}
	opened := l.open(ctx, svc, p, o)
	sets, wrong := l.setsOf(svc, daemonSets), opened.warnings
	if !w.direct {
		wrong = append(wrong, proxyWarnings(p, l.proxies(svc))...)
	}
	served := directNodes(p, l.join(svc, w), nodes, sets, now, l.busy(p))
	status := l.status(svc, o, p, nodes, sets, served)
	if opened.again > 0 {
		l.services.PokeAfter(nameOf(svc), opened.again)
	}
	if opened.failed {
		// Tried again later, but not by failing: addresses that turned bad
		// have to leave meanwhile.
		status = publish.Narrow(status, svc.Status.LoadBalancer, nodes)
	}
	return status, wrong, l.follow(ctx, svc, w, now, status, nodes, served)
}

func (l *loadBalancer) plan(svc *v1.Service, nodes []*v1.Node, rivals plan.Rivals) (options.Options, *plan.Plan, error) {
	o, err := options.Parse(svc.Annotations, l.defaults)
	if err != nil {
		return o, nil, err
	}
	if o.Firewall.Exceeds(l.defaults.Firewall) {
		return o, nil, fmt.Errorf("annotation %s: %q is refused, as the cloud config says loadBalancer.firewall: %s; remove the annotation",
			options.Firewall, o.Firewall, l.defaults.Firewall)
	}
	rivals.Services, rivals.Defaults = l.around.Services(), l.defaults
	p, err := plan.Share(l.settings, svc, o, nodes, rivals)
	return o, p, err
}

func (l *loadBalancer) status(svc *v1.Service, o options.Options, p *plan.Plan, all []*v1.Node, sets []publish.Set, served []*v1.Node) *v1.LoadBalancerStatus {
	modes, chosen := l.modes(p, served), publish.Names(p.Nodes)
	var ports []v1.PortStatus
	if len(p.Unserved()) > 0 || len(served) > 0 && modes.Direct != "" {
		ports = publish.Ports(svc, p.Unserved())
	}
	in := publish.Input{
		Nodes:     p.Nodes,
		Others:    slices.DeleteFunc(slices.Clone(all), func(n *v1.Node) bool { return chosen[n.Name] }),
		Sets:      sets,
		Direct:    publish.Names(served),
		Local:     svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal,
		Endpoints: l.around.EndpointNodes(svc),
		Previous:  svc.Status.LoadBalancer,
		Families:  svc.Spec.IPFamilies,
		Addresses: o.Addresses,
		MaxNodes:  o.MaxNodes,
		IPMode:    modes,
		Ports:     ports,
		Now:       time.Now(),
	}
	if publish.Growing(in) {
		l.services.PokeAfter(nameOf(svc), publish.Patience)
	}
	return publish.Status(in)
}

// UpdateLoadBalancer cannot return a status, and the Service it gets may be an
// old copy: so Ensure has to do it.
func (l *loadBalancer) UpdateLoadBalancer(_ context.Context, _ string, svc *v1.Service, _ []*v1.Node) error {
	l.services.Poke(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	return nil
}

// EnsureLoadBalancerDeleted removes everything that was made for a Service,
// the opening in the firewall first.
func (l *loadBalancer) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *v1.Service) error {
	told, err := l.withdraw(ctx, svc)
	l.reporter.warn(svc, told)
	if err != nil {
		return err
	}
	l.reporter.warn(svc, nil)
	return l.forgetConditions(ctx, svc)
}

// oneLine writes joined errors in one line, as events want it.
func oneLine(err error) string {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return err.Error()
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
