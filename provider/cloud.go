// Package provider implements cloudprovider.Interface: load balancers made of the nodes' own ports
// and addresses, and facts about nodes. It wires the packages below it to the standard service
// controller (this file) and implements the load balancer as a sequence of steps (reconcile.go).
// What a Service should have is computed in package plan, what is published in package publish.
package provider

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	appconfig "k8s.io/cloud-provider/app/config"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	managerapp "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	firewallgce "github.com/hostport-ccm/hostport-ccm/firewall/gce"
	"github.com/hostport-ccm/hostport-ccm/firewall/none"
	"github.com/hostport-ccm/hostport-ccm/firewall/operations"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/direct"
	"github.com/hostport-ccm/hostport-ccm/provider/failover"
	"github.com/hostport-ccm/hostport-ccm/provider/garbage"
	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/policy"
	"github.com/hostport-ccm/hostport-ccm/provider/proxies"
	"github.com/hostport-ccm/hostport-ccm/provider/saturation"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

// maxSharedChanges is how many changes of shared firewall rules run at once: all but one of them wait,
// and that one is made for all.
const maxSharedChanges = 1000

// ProviderName is the cloud provider's name, and the scheme of provider ids of nodes without a
// cloud.
const ProviderName = "hostport"

// defaultFirewallCheckPeriod lets rules that others changed be repaired within a minute.
const defaultFirewallCheckPeriod = 30 * time.Second

// component is the source of events and the user agent.
const component = "hostport-ccm"

// Cloud implements cloudprovider.Interface. Make it with New.
type Cloud struct {
	config    *config.CloudConfig
	instances cloudprovider.InstancesV2
	// newFirewall makes the firewall when the cluster's identity is known.
	newFirewall func(firewall.Cluster) firewall.Firewall
	// addresses reads annotated addresses of nodes; nil if a cloud provides them.
	addresses *nodeaddress.Reader
	failures  failureDetector
	// balancer is set when the service controller starts.
	balancer *loadBalancer
	// inventory counts what is served. It is set when the service controller starts.
	inventory func() inventory
}

var _ cloudprovider.Interface = &Cloud{}

// New returns a Cloud as configured. It sends no requests yet, except to the metadata server of
// Google Compute Engine for what the config leaves empty.
func New(ctx context.Context, cfg *config.CloudConfig) (*Cloud, error) {
	cloud := &Cloud{config: cfg, failures: noFailureDetection, newFirewall: func(firewall.Cluster) firewall.Firewall { return none.Firewall{} }}
	if cfg.Provider == config.ProviderNone {
		cloud.addresses = &nodeaddress.Reader{}
		cloud.instances = ownInstances{cloud.addresses}
		return cloud, nil
	}
	client, err := gce.New(ctx, gce.Options{
		Project:        cfg.GCE.Project,
		NetworkProject: cfg.GCE.NetworkProject,
		Network:        cfg.GCE.Network,
		Endpoint:       cfg.GCE.APIEndpoint,
		UserAgent:      component,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing provider gce: %w", err)
	}
	instances := gce.NewInstances(client, cfg.GCE.InstanceCacheTTL.Duration)
	cloud.instances = gceInstances{instances}
	if cfg.LoadBalancer.Firewall != firewall.None {
		cloud.newFirewall = func(cluster firewall.Cluster) firewall.Firewall {
			return firewallgce.New(client, instances, firewallgce.Options{Tags: cfg.GCE.NodeTags, Layout: cfg.GCE.FirewallLayout}, cluster)
		}
	}
	return cloud, nil
}

// StartServiceController is an app.InitFuncConstructor. It starts the standard service controller
// on our view of the Services when this replica leads. Failed nodes are detected from the call on,
// on every replica.
func StartServiceController(init app.ControllerInitContext, completed *appconfig.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
	c := cloud.(*Cloud)
	if err := view.SlimShared(completed.SharedInformers); err != nil {
		return func(context.Context, managerapp.ControllerContext) (controller.Interface, bool, error) {
			return nil, false, err
		}
	}
	c.detectFailures(context.Background(), completed)
	return func(ctx context.Context, manager managerapp.ControllerContext) (controller.Interface, bool, error) {
		kube := completed.ClientBuilder.ClientOrDie(init.ClientName)
		reload, err := reloadClient(completed.ClientBuilder.ConfigOrDie(init.ClientName))
		if err != nil {
			return nil, false, err
		}
		run, err := c.serviceController(ctx, kube, reload, completed.SharedInformers, completed.ComponentConfig.KubeCloudShared.ClusterName)
		if err != nil {
			return nil, false, fmt.Errorf("preparing the service controller: %w", err)
		}
		go run(ctx, int(completed.ComponentConfig.ServiceController.ConcurrentServiceSyncs), manager)
		return nil, true, nil
	}
}

// reloadClient returns a client with a low rate of requests.
func reloadClient(config *rest.Config) (kubernetes.Interface, error) {
	slow := rest.CopyConfig(config)
	slow.QPS, slow.Burst, slow.RateLimiter = proxies.ReloadQPS, proxies.ReloadBurst, nil
	return kubernetes.NewForConfig(slow)
}

// runner runs the service controller with a number of workers until ctx is done.
type runner func(ctx context.Context, workers int, manager managerapp.ControllerContext)

// serviceController makes the load balancer and the controller that drives it. The caller starts
// the informers of shared. reload is a client for requests that may be slow: see proxies.New.
func (c *Cloud) serviceController(ctx context.Context, kube, reload kubernetes.Interface, shared informers.SharedInformerFactory, clusterName string) (runner, error) {
	lb := &c.config.LoadBalancer
	id, err := clusterID(ctx, kube, c.config.ClusterID)
	if err != nil {
		return nil, err
	}
	settings := planSettings(id, lb)
	w, err := newWatches(kube, settings, shared, lb.Classes)
	if err != nil {
		return nil, err
	}
	proxyManager, err := proxies.New(kube, reload, settings, w.owned, w.services)
	if err != nil {
		return nil, err
	}
	mode := direct.NewKubeProxyMode(kube, lb.KubeProxyMode)
	directManager := direct.New(kube, settings, w.all.Lister(), mode, c.config.Provider == config.ProviderGCE, lb.IPMode, w.services)
	fw := operations.New(c.newFirewall(firewall.Cluster{
		ID:            id,
		Services:      func() []firewall.Owner { return w.firewallOwners(settings) },
		DeleteOrphans: lb.Firewall == firewall.Managed,
	}), c.parallelChanges(), w.services.Resume)
	record := newRecorders(ctx, kube)
	c.addresses.SetRecorder(record.services)
	allowed := policy.Policy{Defaults: c.config.Options(), Limits: lb.Policy}
	reached := w.reachabilityMonitor(proxyManager, directManager, record.reachability)
	c.balancer = &loadBalancer{
		settings: settings, policy: allowed, kube: kube, services: w.services, foreign: w.foreign,
		proxies: proxyManager, direct: directManager, firewall: fw, events: record.services, unreachable: reached.Unreachable,
		snapshots: snapshots{
			generation: func() uint64 { return w.services.Generation() + c.failures.Generation() },
			services:   w.services.ServiceGeneration,
			claimants:  w.services.Wanted, all: w.all.Lister(), nodes: w.nodes.Lister(),
			failures: c.failures, addresses: c.addresses, policy: allowed, environment: directManager.Environment,
		},
	}
	c.inventory = func() inventory { return takeInventory(w.shown(), record.holding(), proxyManager.AllPods()) }
	w.services.SetConcerned(c.balancer.concerned)
	standard, err := servicecontroller.New(c, w.services.Client(kube), w.services, view.QuietNodes(w.nodes), clusterName, utilfeature.DefaultFeatureGate)
	if err != nil {
		return nil, err
	}
	orphans := garbage.New(kube, settings, w.all.Lister(), w.services.Manages, record.services,
		firewallKind(fw, settings.ClusterID, lb.Firewall),
		garbage.KindOf(directManager.Mirrors), garbage.KindOf(proxyManager.DaemonSets), garbage.KindOf(proxyManager.ConfigMaps))
	return func(ctx context.Context, workers int, manager managerapp.ControllerContext) {
		synced := w.services.Informer().HasSynced
		w.start(ctx)
		go orphans.Run(ctx, synced)
		go proxyManager.Run(ctx)
		go reached.Run(ctx)
		go saturation.New(proxyManager.AllPods, w.services.Latest, record.saturation).Run(ctx)
		go exposeInventory(ctx, synced, c.inventory)
		c.failures.Subscribe(func(t failover.Transition) { onTransition(record.services, w, t) })
		mode.Run(ctx, w.services.EnqueueAll)
		go detectDrift(ctx, fw, synced, cmp.Or(c.config.GCE.FirewallCheckPeriod.Duration, defaultFirewallCheckPeriod), w.services)
		standard.Run(ctx, workers, manager.ControllerManagerMetrics)
	}, nil
}

// parallelChanges returns how many changes of the firewall run at once.
func (c *Cloud) parallelChanges() int {
	if c.config.GCE.FirewallLayout == firewall.Shared {
		return maxSharedChanges
	}
	return operations.MaxParallel
}

func planSettings(clusterID string, lb *config.LoadBalancer) plan.Settings {
	return plan.Settings{
		ClusterID:       clusterID,
		Namespace:       lb.Namespace,
		ProxyImage:      lb.ProxyImage,
		ImagePullPolicy: lb.ImagePullPolicy,
		UserNamespaces:  lb.UserNamespaces,
		Reserved:        lb.Reserved(),
	}
}

// watches are the informers that the load balancer reads from. They enqueue Services when something
// changes that matters to them.
type watches struct {
	// all are all Services of the cluster, services are ours as the service controller sees them.
	all      coreinformers.ServiceInformer
	services *view.Services
	nodes    coreinformers.NodeInformer
	// owned are the objects with our mark in the namespace of the proxies.
	owned   informers.SharedInformerFactory
	foreign *view.Foreign
}

func newWatches(kube kubernetes.Interface, settings plan.Settings, shared informers.SharedInformerFactory, classes config.Classes) (w watches, err error) {
	w.all, w.nodes = shared.Core().V1().Services(), shared.Core().V1().Nodes()
	w.owned = informers.NewSharedInformerFactoryWithOptions(kube, 0,
		informers.WithNamespace(settings.Namespace), informers.WithTransform(view.SlimOwned()),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = settings.Selector().String() }))
	if w.services, err = view.NewServices(w.all, classes); err != nil {
		return w, err
	}
	if err := w.services.WatchOwned(w.owned, w.nodes); err != nil {
		return w, err
	}
	w.foreign, err = w.services.WatchForeign(kube, settings)
	return w, err
}

// start starts the informers that are not shared, and the delivery of enqueued Services.
func (w watches) start(ctx context.Context) {
	w.owned.Start(ctx.Done())
	w.foreign.Run(ctx.Done())
	go w.services.Run(ctx)
}

// shown returns all Services as the service controller sees them.
func (w watches) shown() []*v1.Service {
	shown, _ := w.services.Lister().List(everything) // From the cache: never an error.
	return shown
}

// nodeNamed returns a node of the cluster, or nil.
func (w watches) nodeNamed(name string) *v1.Node {
	node, err := w.nodes.Lister().Get(name)
	if err != nil {
		return nil
	}
	return node
}

// firewallOwners returns the Services that may have firewall rules. These include Services that are
// being deleted and those that do not have the type LoadBalancer any more, until they are cleaned
// up.
func (w watches) firewallOwners(settings plan.Settings) []firewall.Owner {
	var owners []firewall.Owner
	for _, svc := range w.shown() {
		if svc.Spec.Type == v1.ServiceTypeLoadBalancer || servicehelper.HasLBFinalizer(svc) {
			owners = append(owners, settings.Owner(svc))
		}
	}
	return owners
}

// firewallKind is the rules of Services, for garbage collection.
func firewallKind(fw *operations.Reconciler, clusterID string, mode firewall.Mode) garbage.Kind {
	return garbage.Kind{
		Name: "firewall rules",
		Owners: func(ctx context.Context) ([]firewall.Owner, error) {
			return fw.Owners(ctx, clusterID, mode)
		},
		Delete: func(ctx context.Context, owner firewall.Owner) (bool, error) {
			return fw.DeleteOrphan(ctx, owner, mode)
		},
	}
}
