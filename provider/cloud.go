// Package provider makes hostport-ccm a cloud provider in the sense of
// k8s.io/cloud-provider: load balancers made of the nodes' own ports and
// addresses, and facts about nodes. It wires and executes; what a Service
// should have is worked out in package plan, what is published in package
// publish.
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
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	appconfig "k8s.io/cloud-provider/app/config"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	managerapp "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	firewallgce "github.com/hostport-ccm/hostport-ccm/firewall/gce"
	"github.com/hostport-ccm/hostport-ccm/firewall/none"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/trigger"
)

// ProviderName is the cloud provider's name, and the scheme of provider ids of
// nodes without a cloud.
const ProviderName = "hostport"

// defaultFirewallCheckPeriod has rules changed by others put right within a
// minute.
const defaultFirewallCheckPeriod = 30 * time.Second

// component names us in events.
const component = "hostport-ccm"

// Cloud implements cloudprovider.Interface. Make it with New.
type Cloud struct {
	config    *config.CloudConfig
	firewall  firewall.Firewall
	instances cloudprovider.InstancesV2
	// own is there if nodes describe themselves.
	own   *nodeaddress.Reader
	watch nodeWatch
	// clusterID and balancer are there once the service controller is being started.
	clusterID string
	balancer  *loadBalancer
}

var _ cloudprovider.Interface = &Cloud{}

// New prepares a cloud as configured. The cloud's API is not asked for anything
// yet; of Google's cloud, the metadata server is, for what the config leaves
// open.
func New(ctx context.Context, cfg *config.CloudConfig) (*Cloud, error) {
	if cfg.Provider == config.ProviderNone {
		own := &nodeaddress.Reader{}
		return &Cloud{config: cfg, firewall: none.Firewall{}, instances: ownInstances{own}, own: own, watch: noWatch}, nil
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
	cloud := &Cloud{config: cfg, firewall: none.Firewall{}, instances: gceInstances{instances}, watch: noWatch}
	if cfg.LoadBalancer.Firewall != options.FirewallNone {
		rules := firewallgce.New(client, instances, cfg.GCE.NodeTags)
		rules.Layout = cfg.GCE.FirewallLayout
		cloud.firewall = rules
	}
	return cloud, nil
}

// StartServiceController is an app.InitFuncConstructor: it starts the standard
// service controller on our view of the Services. The nodes are watched from
// now on, before this replica leads.
func StartServiceController(init app.ControllerInitContext, completed *appconfig.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
	cloud.(*Cloud).watchNodes(context.Background(), completed)
	return func(ctx context.Context, manager managerapp.ControllerContext) (controller.Interface, bool, error) {
		kube := completed.ClientBuilder.ClientOrDie(init.ClientName)
		run, err := cloud.(*Cloud).serviceController(ctx, kube, completed.SharedInformers, completed.ComponentConfig.KubeCloudShared.ClusterName)
		if err != nil {
			return nil, false, fmt.Errorf("preparing the service controller: %w", err)
		}
		go run(ctx, int(completed.ComponentConfig.ServiceController.ConcurrentServiceSyncs), manager)
		return nil, true, nil
	}
}

// runner runs the service controller with so many workers until ctx is done.
type runner func(ctx context.Context, workers int, manager managerapp.ControllerContext)

// serviceController builds the load balancer and the controller that drives
// it. shared is started by the caller.
func (c *Cloud) serviceController(ctx context.Context, kube kubernetes.Interface, shared informers.SharedInformerFactory, clusterName string) (runner, error) {
	var err error
	if c.clusterID, err = clusterID(ctx, kube, c.config.ClusterID); err != nil {
		return nil, err
	}
	settings := c.settings()
	ours := informers.NewSharedInformerFactoryWithOptions(kube, 0,
		informers.WithNamespace(settings.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = settings.Selector().String() }))
	services := trigger.NewServices(shared.Core().V1().Services(), c.config.LoadBalancer.Classes)
	if err := services.Watch(ours, shared.Core().V1().Nodes()); err != nil {
		return nil, err
	}
	around, err := services.WatchAround(kube)
	if err != nil {
		return nil, err
	}
	if rules, ok := c.firewall.(*firewallgce.Firewall); ok {
		rules.Roster = roster(settings, services.Lister())
		if c.config.LoadBalancer.Firewall == options.FirewallManaged {
			rules.ClusterID = settings.ClusterID
		}
	}
	recorder := newRecorder(ctx, kube)
	if err := ours.Core().V1().Pods().Informer().AddIndexers(proxyIndexers); err != nil {
		return nil, fmt.Errorf("preparing to find proxies by their Service and ports: %w", err)
	}
	c.balancer = c.newLoadBalancer(kube, ours, shared.Core().V1().Services().Lister(), services, recorder)
	c.balancer.around, c.balancer.nodes = around, shared.Core().V1().Nodes().Lister()
	standard, err := servicecontroller.New(c, services.Client(kube), services, trigger.QuietNodes(shared.Core().V1().Nodes()), clusterName, utilfeature.DefaultFeatureGate)
	if err != nil {
		return nil, err
	}
	leftBehind := newCollector(c.balancer, shared.Core().V1().Services().Lister())
	return func(ctx context.Context, workers int, manager managerapp.ControllerContext) {
		ours.Start(ctx.Done())
		around.Run(ctx.Done())
		go services.Run(ctx)
		go leftBehind.run(ctx, services.Informer().HasSynced, collectEvery)
		c.watch.Subscribe(onTransition(recorder, services))
		c.balancer.kubeProxy.run(ctx, kubeProxyPeriod, services.PokeAll)
		go c.balancer.guardFirewall(ctx, services.Informer().HasSynced, cmp.Or(c.config.GCE.FirewallCheckPeriod.Duration, defaultFirewallCheckPeriod))
		standard.Run(ctx, workers, manager.ControllerManagerMetrics)
	}, nil
}

func (c *Cloud) newLoadBalancer(kube kubernetes.Interface, ours informers.SharedInformerFactory, all corelisters.ServiceLister, services poker, recorder record.EventRecorder) *loadBalancer {
	settings := c.settings()
	c.own.SetRecorder(recorder)
	lb := &c.config.LoadBalancer
	return &loadBalancer{
		settings:     settings,
		defaults:     c.config.Options(),
		ipMode:       c.ipMode(),
		forcedIPMode: lb.IPMode,
		translated:   c.config.Provider == config.ProviderGCE,
		kube:         kube,
		pods:         ours.Core().V1().Pods().Informer().GetIndexer(),
		configMaps:   configMapsOf(kube, settings, ours.Core().V1().ConfigMaps().Lister()),
		daemonSets:   daemonSetsOf(kube, settings, ours.Apps().V1().DaemonSets().Lister()),
		mirrors:      mirrorsOf(kube, settings, all),
		kubeProxy:    &kubeProxy{kube: kube, told: lb.KubeProxyMode},
		settling:     settling{time: settleTime},
		openings:     newOpenings(c.firewall, services.Resume),
		reporter:     newReporter(recorder),
		services:     services,
		own:          c.own,
		watch:        c.watch,
	}
}

func (c *Cloud) settings() plan.Settings {
	return plan.Settings{
		ClusterID:       c.clusterID,
		Namespace:       c.config.LoadBalancer.Namespace,
		ProxyImage:      c.config.LoadBalancer.ProxyImage,
		ImagePullPolicy: c.config.LoadBalancer.ImagePullPolicy,
		Reserved:        c.config.LoadBalancer.Reserved(),
	}
}

// ipMode follows from where an address is. VIP has kube-proxy serve it on every
// node, which is right for one that no node bears: of GCE's external ones those
// of IPv4, as IPv6 is not translated. For a node's own address it would take the
// packets away from the proxies, which is right only where there are to be none,
// and in IPVS mode bind the address to every node and so cut its owner off.
func (c *Cloud) ipMode() publish.IPMode {
	mode := publish.IPMode{ExternalIPv4: v1.LoadBalancerIPModeProxy, Other: v1.LoadBalancerIPModeProxy, Direct: v1.LoadBalancerIPModeVIP}
	if c.config.Provider == config.ProviderGCE {
		mode.ExternalIPv4, mode.Direct = v1.LoadBalancerIPModeVIP, "" // A mirror has the others.
	}
	if forced := c.config.LoadBalancer.IPMode; forced != "" {
		mode.ExternalIPv4, mode.Other = forced, forced
	}
	return mode
}

// newRecorder sends events of our own until ctx is done.
func newRecorder(ctx context.Context, kube kubernetes.Interface) record.EventRecorder {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartStructuredLogging(0)
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	context.AfterFunc(ctx, broadcaster.Shutdown)
	return broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: component})
}
