package provider

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	firewallgce "github.com/hostport-ccm/hostport-ccm/firewall/gce"
	"github.com/hostport-ccm/hostport-ccm/firewall/none"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/view/viewtest"
)

func TestNewSelectsTheProvider(t *testing.T) {
	endpoint := config.GCE{Project: "p", Network: "n", APIEndpoint: "http://127.0.0.1:1"}
	for name, c := range map[string]struct {
		cfg         config.CloudConfig
		gce, manage bool
	}{
		"GCE": {
			config.CloudConfig{Provider: config.ProviderGCE, GCE: endpoint, LoadBalancer: config.LoadBalancer{Firewall: firewall.Managed}}, true, true,
		},
		"GCE without firewall management": {
			config.CloudConfig{Provider: config.ProviderGCE, GCE: endpoint, LoadBalancer: config.LoadBalancer{Firewall: firewall.None}}, true, false,
		},
		"no cloud": {
			config.CloudConfig{Provider: config.ProviderNone, LoadBalancer: config.LoadBalancer{Firewall: firewall.Managed}}, false, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cloud, err := New(t.Context(), &c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			fw := cloud.newFirewall(firewall.Cluster{ID: "alpha", Services: func() []firewall.Owner { return nil }})
			_, isGCE := cloud.instances.(gceInstances)
			_, manages := fw.(*firewallgce.Firewall)
			_, isNone := fw.(none.Firewall)
			if isGCE != c.gce || manages != c.manage || isNone == c.manage {
				t.Errorf("got instances %T, firewall %T", cloud.instances, fw)
			}
			if _, early := cloud.LoadBalancer(); early || cloud.ProviderName() != "hostport" || !cloud.HasClusterID() {
				t.Error("the Cloud has a load balancer before the start, or the wrong name or no cluster id")
			}
		})
	}
}

func TestOnlyTheConfigCanEnableTheFirewall(t *testing.T) {
	c := twoNodes(t)
	c.config.LoadBalancer.Firewall = firewall.None
	c.start()
	c.create(service("web", withAnnotation(options.Firewall, "managed")))
	c.eventually("the annotation is refused", func() bool {
		return c.hasEvent("Warning InvalidConfiguration web:", options.Firewall, "loadBalancer.firewall: none")
	})
	c.serve(service("other", tcp(81)))
	if rules := c.firewall.Rules(); len(rules) > 0 {
		t.Errorf("firewall rules: %v", rules)
	}
}

func TestUpdateLoadBalancerEnqueues(t *testing.T) {
	queue := &viewtest.Queue{}
	var l cloudprovider.LoadBalancer = &loadBalancer{services: queue}
	if err := l.UpdateLoadBalancer(t.Context(), "", service("web"), nil); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]types.NamespacedName{nameOf(service("web"))}, queue.Enqueued); diff != "" {
		t.Errorf("enqueued (-want +got):\n%s", diff)
	}
}
