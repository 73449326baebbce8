package provider

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	cloudprovider "k8s.io/cloud-provider"

	firewallgce "github.com/hostport-ccm/hostport-ccm/firewall/gce"
	"github.com/hostport-ccm/hostport-ccm/firewall/none"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

func TestNewChoosesTheCloud(t *testing.T) {
	endpoint := config.GCE{Project: "p", Network: "n", APIEndpoint: "http://127.0.0.1:1"}
	for name, c := range map[string]struct {
		cfg        config.CloudConfig
		gce, opens bool
		mode       publish.IPMode
	}{
		"GCE": {
			config.CloudConfig{Provider: config.ProviderGCE, GCE: endpoint, LoadBalancer: config.LoadBalancer{Firewall: options.FirewallManaged}},
			true, true, publish.IPMode{ExternalIPv4: v1.LoadBalancerIPModeVIP, Other: v1.LoadBalancerIPModeProxy},
		},
		"GCE with its firewall kept by hand": {
			config.CloudConfig{Provider: config.ProviderGCE, GCE: endpoint, LoadBalancer: config.LoadBalancer{Firewall: options.FirewallNone}},
			true, false, publish.IPMode{ExternalIPv4: v1.LoadBalancerIPModeVIP, Other: v1.LoadBalancerIPModeProxy},
		},
		"no cloud": {
			config.CloudConfig{Provider: config.ProviderNone, LoadBalancer: config.LoadBalancer{Firewall: options.FirewallManaged}},
			false, false, publish.IPMode{ExternalIPv4: v1.LoadBalancerIPModeProxy, Other: v1.LoadBalancerIPModeProxy, Direct: v1.LoadBalancerIPModeVIP},
		},
		"an ip mode of the user's": {
			config.CloudConfig{Provider: config.ProviderNone, LoadBalancer: config.LoadBalancer{IPMode: v1.LoadBalancerIPModeVIP}},
			false, false, publish.IPMode{ExternalIPv4: v1.LoadBalancerIPModeVIP, Other: v1.LoadBalancerIPModeVIP, Direct: v1.LoadBalancerIPModeVIP},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cloud, err := New(context.Background(), &c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			_, isGCE := cloud.instances.(gceInstances)
			_, opens := cloud.firewall.(*firewallgce.Firewall)
			_, isNone := cloud.firewall.(none.Firewall)
			if isGCE != c.gce || opens != c.opens || isNone == c.opens || cloud.ipMode() != c.mode {
				t.Errorf("got instances %T, firewall %T, %v", cloud.instances, cloud.firewall, cloud.ipMode())
			}
			if _, early := cloud.LoadBalancer(); early || cloud.ProviderName() != "hostport" || !cloud.HasClusterID() {
				t.Error("the cloud misdescribes itself")
			}
		})
	}
}

func TestOnlyTheConfigCanSwitchTheFirewallOn(t *testing.T) {
	l := &loadBalancer{around: nobody{}, defaults: options.Options{NodeSelector: options.Default().NodeSelector, Firewall: options.FirewallNone}}
	if _, _, err := l.plan(service("web", withAnnotation(options.Firewall, "managed")), nil, plan.Rivals{}); err == nil {
		t.Error("an annotation overrules a config that says hands off")
	}
	if _, _, err := l.plan(service("web"), nil, plan.Rivals{}); err != nil {
		t.Error(err)
	}
}

// configMaps is an objects with an empty memory, or one that holds stale.
func configMaps(t *testing.T, kube *fake.Clientset, stale ...*v1.ConfigMap) objects[*v1.ConfigMap] {
	t.Helper()
	memory := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, cm := range stale {
		if err := memory.Add(cm); err != nil {
			t.Fatal(err)
		}
	}
	return configMapsOf(kube, plan.Settings{ClusterID: "alpha", Namespace: system}, corelisters.NewConfigMapLister(memory))
}

func wanted(t *testing.T) *v1.ConfigMap {
	t.Helper()
	p, err := plan.Make(plan.Settings{ClusterID: "alpha", Namespace: system}, service("web"), options.Default(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return firstSet(p).ConfigMap
}

// firstSet is the one set of proxies of a new Service.
func firstSet(p *plan.Plan) plan.ProxySet {
	return p.Proxies(plan.Divide(plan.PortKeys(p.Served), plan.Division{}))[0]
}

func TestEnsureBelievesTheServerMoreThanItsMemory(t *testing.T) {
	old := wanted(t)
	old.Data = map[string]string{"old": "x"}
	for name, c := range map[string]struct {
		stored, remembered *v1.ConfigMap
		want               change
	}{
		"not there":                    {nil, nil, created},
		"there and not yet remembered": {wanted(t), nil, unchanged},
		"old and not yet remembered":   {old, nil, updated},
		"remembered and gone":          {nil, old, created},
		"remembered as it was before":  {wanted(t), old, unchanged},
		"as remembered":                {wanted(t), wanted(t), unchanged},
	} {
		t.Run(name, func(t *testing.T) {
			var stored []runtime.Object
			if c.stored != nil {
				stored = append(stored, c.stored.DeepCopy())
			}
			kube := fake.NewClientset(stored...)
			// The server refuses updates made from an outdated copy.
			kube.PrependReactor("update", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
				if c.stored != nil && c.remembered != nil {
					return true, nil, apierrors.NewConflict(v1.Resource("configmaps"), "x", errors.New("outdated"))
				}
				return false, nil, nil
			})
			var remembered []*v1.ConfigMap
			if c.remembered != nil {
				remembered = append(remembered, c.remembered.DeepCopy())
			}
			_, got, err := configMaps(t, kube, remembered...).ensure(context.Background(), service("web"), wanted(t))
			if err != nil || got != c.want {
				t.Fatalf("got %q, %v, want %q", got, err, c.want)
			}
			now, err := kube.CoreV1().ConfigMaps(system).Get(context.Background(), wanted(t).Name, metav1.GetOptions{})
			if err != nil || now.Data["old"] != "" {
				t.Errorf("stored: %v, %v", now, err)
			}
		})
	}
}

func TestTroubleWithTheAPIIsAnErrorAndNotAnAbsence(t *testing.T) {
	kube := fake.NewClientset()
	kube.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("down")
	})
	if _, found, err := configMaps(t, kube).find(context.Background(), service("web"), plan.Name(service("web"))); found || err == nil {
		t.Errorf("got %t, %v", found, err)
	}
	if err := configMaps(t, kube).remove(context.Background(), service("web"), plan.Name(service("web"))); err == nil {
		t.Error("a deletion that could not be done is no error")
	}
}

func TestUpdateLoadBalancerLeadsToEnsure(t *testing.T) {
	var poked []string
	record := pokeRecorder(func(name string) { poked = append(poked, name) })
	var l cloudprovider.LoadBalancer = &loadBalancer{services: record}
	if err := l.UpdateLoadBalancer(context.Background(), "", service("web"), nil); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"default/web"}, poked); diff != "" {
		t.Errorf("poked (-want +got):\n%s", diff)
	}
}

type pokeRecorder func(name string)

func (p pokeRecorder) Poke(service types.NamespacedName) { p(service.String()) }

func (p pokeRecorder) Resume(service types.NamespacedName) { p(service.String()) }

func (p pokeRecorder) PokeAfter(service types.NamespacedName, _ time.Duration) { p(service.String()) }

// nobody is around.
type nobody struct{}

func (nobody) Services() []*v1.Service                   { return nil }
func (nobody) Holders(*v1.Service) map[string][]*v1.Pod  { return nil }
func (nobody) EndpointNodes(*v1.Service) map[string]bool { return nil }
