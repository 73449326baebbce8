package provider

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// bareMetal returns a cluster without a cloud.
func bareMetal(t *testing.T) *cluster {
	c := newCluster(t, translatedNode(1), translatedNode(2))
	c.config.Provider = config.ProviderNone
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNFTables
	c.config.LoadBalancer.ReservedPorts = []string{"22"}
	c.addresses = &nodeaddress.Reader{}
	return c
}

// publishesWithModes waits until both addresses are published, each with its IP mode.
func (c *cluster) publishesWithModes(name string, modes ...v1.LoadBalancerIPMode) {
	c.Helper()
	c.publishes(name, "203.0.113.1", "203.0.113.2")
	c.eventually(fmt.Sprintf("the modes of %s are %v", name, modes), func() bool {
		entries := c.service(name).Status.LoadBalancer.Ingress
		return len(entries) == 2 && *entries[0].IPMode == modes[0] && *entries[1].IPMode == modes[1]
	})
}

func TestOnBareMetalDirectNeedsNoMirror(t *testing.T) {
	c := bareMetal(t)
	stop := c.start()
	c.serve(service("web"))
	c.publishesWithModes("web", proxied, proxied)
	c.edit("web", withDatapath(options.DatapathDirect))
	c.publishesWithModes("web", vip, vip)
	c.eventually("the proxies are gone", func() bool { return c.daemonSet("web") == nil && c.configMap("web") == nil })
	for _, node := range []string{"n1", "n2"} {
		c.removeProxy("web", node)
	}
	stop()
	before := c.service("web")
	c.start()
	c.settle()
	if diff := cmp.Diff(before, c.service("web")); diff != "" {
		t.Errorf("the Service changed after a restart (-before +after):\n%s", diff)
	}
	c.cutOverToProxies()
	if c.settle(); c.mirror("web") != nil {
		t.Error("a mirror exists on bare metal")
	}
}

func TestAMirrorFromProviderGCEIsDeletedOnBareMetal(t *testing.T) {
	gce := twoTranslatedNodes(t)
	stop := gce.start()
	gce.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	stop()
	c := bareMetal(t)
	for _, svc := range []*v1.Service{gce.service("web"), gce.mirror("web")} {
		c.create(svc)
	}
	c.start()
	c.publishesWithModes("web", vip, vip)
	c.eventually("the mirror is deleted", func() bool { return c.mirror("web") == nil })
}

// cutOverToProxies cuts Service web over from datapath direct to proxies, node by node.
func (c *cluster) cutOverToProxies() {
	c.Helper()
	c.edit("web", withDatapath(options.DatapathProxy))
	c.proxy("web", "n1", ready)
	c.publishesWithModes("web", proxied, vip)
	c.proxy("web", "n2", ready)
	c.publishesWithModes("web", proxied, proxied)
}

func TestOnBareMetalAReservedPortStopsDirect(t *testing.T) {
	for choice, want := range map[options.DatapathChoice][]string{
		options.DatapathDirect: {"Warning InvalidConfiguration web:", "port 22/TCP is reserved"},
		options.DatapathAuto:   {"Warning DatapathFallback web:", "port 22/TCP is reserved"},
	} {
		t.Run(string(choice), func(t *testing.T) {
			c := bareMetal(t)
			c.start()
			c.create(service("web", withDatapath(choice), policyLocal))
			c.publishesWithModes("web", vip, vip)
			c.edit("web", tcp(22, 80))
			c.eventually("no address has IP mode VIP", func() bool {
				return !slices.ContainsFunc(c.service("web").Status.LoadBalancer.Ingress, func(e v1.LoadBalancerIngress) bool { return *e.IPMode == vip })
			})
			c.eventually("a warning names the reason", func() bool { return c.hasEvent(want...) })
			if choice == options.DatapathDirect {
				c.publishes("web")
				c.settle()
				c.wantNoResources("web")
			}
		})
	}
}

func TestOnBareMetalAPodKeepsItsHostPort(t *testing.T) {
	c := bareMetal(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyIPTables
	c.start()
	c.create(service("web", withDatapath(options.DatapathDirect)))
	c.publishesWithModes("web", vip, vip)
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), foreignPod("late", "n1", 80), metav1.CreateOptions{}))
	c.eventually("a warning names the pod", func() bool {
		return c.hasEvent("Warning HostPortConflict web:", "apps/late asks for host port 80/TCP", "node n1")
	})
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), foreignPod("first", "n2", 443), metav1.CreateOptions{}))
	c.eventually("the other pod is in the cache", func() bool { return len(c.balancer.foreign.PodsWithPortsOf(service("web", tcp(443)))) == 1 })
	c.edit("web", tcp(80, 443))
	c.publishes("web", "203.0.113.1")
}
