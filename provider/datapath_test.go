package provider

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// forbid has the API server refuse to create, update, patch or delete mirrors. It
// locks, as the fake does not while reactors are added.
func (c *cluster) forbid(verb, because string) {
	c.kube.Lock()
	defer c.kube.Unlock()
	c.kube.PrependReactor(verb, "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		name := plan.Name(service("web"))
		switch action := action.(type) {
		case clienttesting.CreateAction:
			if action.GetObject().(metav1.Object).GetName() != name {
				return false, nil, nil
			}
		case clienttesting.DeleteAction:
			if action.GetName() != name {
				return false, nil, nil
			}
		case clienttesting.PatchAction:
			if action.GetName() != name {
				return false, nil, nil
			}
		}
		return true, nil, apierrors.NewForbidden(v1.Resource("services"), name, fmt.Errorf("%s", because))
	})
}

func TestWhereDirectCannotBeHad(t *testing.T) {
	mode := func(mode config.KubeProxyMode) func(c *cluster) {
		return func(c *cluster) { c.config.LoadBalancer.KubeProxyMode = mode }
	}
	for name, tt := range map[string]struct {
		prepare func(c *cluster)
		change  func(*v1.Service)
		words   []string
	}{
		"in mode ipvs":         {mode(config.KubeProxyIPVS), nil, []string{"ipvs", "cut nodes off"}},
		"without kube-proxy":   {mode(config.KubeProxyNone), nil, []string{"no kube-proxy"}},
		"in an unknown mode":   {mode(""), nil, []string{"no ConfigMap kube-system/kube-proxy", "loadBalancer.kubeProxyMode"}},
		"without a selector":   {nil, func(svc *v1.Service) { svc.Spec.Selector = nil }, []string{"no selector"}},
		"without the right to": {func(c *cluster) { c.forbid("create", `User "x" cannot create resource "services"`) }, nil, []string{"manifests/components/direct", "namespace default"}},
		"with a full quota":    {func(c *cluster) { c.forbid("create", "exceeded quota: small, requested: services=1, used: services=5") }, nil, []string{"exceeded quota: small", "raise"}},
		"with a policy":        {func(c *cluster) { c.forbid("create", "admission webhook says no") }, nil, []string{"webhook says no"}},
	} {
		prepared := func(t *testing.T, choice options.DatapathChoice) (*cluster, *v1.Service) {
			c := twoNatted(t)
			if tt.prepare != nil {
				tt.prepare(c)
			}
			svc := service("web", by(choice), local)
			if tt.change != nil {
				tt.change(svc)
			}
			c.endpoints("web", "n1", "n2") // without any, who is published first would stay the only one
			c.start()
			return c, svc
		}
		t.Run(name+", auto takes proxies", func(t *testing.T) {
			c, svc := prepared(t, options.DatapathAuto)
			c.serve(svc)
			c.settle()
			if got := c.warnings("web"); len(got) != 1 || !c.hasEvent(append(tt.words, "Warning DatapathFallback web:")...) {
				t.Errorf("want one warning with %q, got %q", tt.words, got)
			}
			if c.mirror("web") != nil {
				t.Error("there is a mirror")
			}
		})
		t.Run(name+", direct is refused", func(t *testing.T) {
			c, svc := prepared(t, options.DatapathDirect)
			c.create(svc)
			c.eventually("a warning says why", func() bool { return c.hasEvent(append(tt.words, "Warning InvalidConfiguration web:")...) })
			c.settle()
			if got := c.warnings("web"); len(got) != 1 {
				t.Errorf("want one warning, got %q", got)
			}
			c.publishes("web")
			c.nothingLeft("web")
		})
	}
}

func TestARefusedServiceStaysAsItWas(t *testing.T) {
	c := twoNatted(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNone
	c.start()
	c.serve(service("web"))
	c.edit("web", by(options.DatapathDirect))
	c.eventually("a warning says why", func() bool { return c.hasEvent("Warning InvalidConfiguration web:") })
	c.settle()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	if c.daemonSet("web") == nil || !c.isOpen("web") {
		t.Error("it lost its proxies or its opening")
	}
}

func TestARefusedServiceThatNothingServesShowsNoAddresses(t *testing.T) {
	c := twoNatted(t)
	c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect)))
	c.forbid("create", "exceeded quota: small, requested: services=1, used: services=5")
	if err := c.kube.Tracker().Delete(v1.SchemeGroupVersion.WithResource("services"), "default", plan.Name(service("web"))); err != nil {
		t.Fatal(err)
	}
	c.publishes("web")
	c.settle()
	c.nothingLeft("web")
}

func TestAStrangerInTheMirrorsPlaceIsLeftAlone(t *testing.T) {
	for choice, reason := range map[options.DatapathChoice]string{options.DatapathAuto: "DatapathFallback", options.DatapathDirect: "InvalidConfiguration"} {
		t.Run(string(choice), func(t *testing.T) {
			c := twoNatted(t)
			c.endpoints("web", "n1", "n2")
			c.start()
			c.serve(service("web"))
			taken := service(plan.Name(service("web")), func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
			c.create(taken)
			c.edit("web", by(choice))
			c.edit("web", local)
			c.eventually("a warning says why", func() bool {
				return c.hasEvent("Warning "+reason+" web:", taken.Name+" exists and is not ours", "use datapath proxy")
			})
			c.settle()
			c.publishes("web", "203.0.113.1", "203.0.113.2")
			if c.daemonSet("web") == nil || !cmp.Equal(taken.Spec, c.mirror("web").Spec) {
				t.Errorf("it lost its proxies, or the stranger is %v", c.mirror("web"))
			}
			if got := c.warnings("web"); len(got) != 1 {
				t.Errorf("want one warning, got %q", got)
			}
		})
	}
}

func TestAMirrorThatMayNotBeDeletedStandsInNobodysWay(t *testing.T) {
	c := twoNatted(t)
	c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect)))
	c.forbid("delete", `User "x" cannot delete resource "services"`)
	c.edit("web", by(options.DatapathProxy))
	c.proxy("web", "n1", ready)
	c.mirrors("web", "10.0.0.2")
	c.proxy("web", "n2", ready)
	c.mirrors("web")
	c.edit("web", tcp(81))
	c.proxy("web", "n1", notReady)
	c.publishes("web", "203.0.113.2")
}

func TestAMirrorThatMayNotBeUpdatedServesOn(t *testing.T) {
	for _, choice := range []options.DatapathChoice{options.DatapathAuto, options.DatapathDirect} {
		t.Run(string(choice), func(t *testing.T) {
			c := twoNatted(t)
			c.endpoints("web", "n1", "n2")
			c.start()
			c.serveDirectly(service("web", by(choice), local))
			c.forbid("update", `User "x" cannot update resource "services"`)
			c.edit("web", tcp(80, 81))
			c.eventually("a warning says why", func() bool {
				return c.hasEvent("Warning InvalidConfiguration web:", "may not update", "manifests/components/direct")
			})
			c.readiness("n2", v1.ConditionUnknown)
			c.publishes("web", "203.0.113.1")
			c.mirrors("web", "10.0.0.1")
			c.readiness("n2", v1.ConditionTrue)
			c.publishes("web", "203.0.113.1", "203.0.113.2")
			c.settle()
			if got := c.warnings("web"); len(got) != 1 || c.daemonSet("web") != nil || len(c.mirror("web").Spec.Ports) != 1 {
				t.Errorf("want one warning and the mirror as it was, got %q, %v", got, c.mirror("web").Spec.Ports)
			}
		})
	}
}

// readiness sets a node's condition Ready.
func (c *cluster) readiness(name string, status v1.ConditionStatus) {
	c.Helper()
	node := must[*v1.Node](c)(c.kube.CoreV1().Nodes().Get(c.Context(), name, metav1.GetOptions{})).DeepCopy()
	node.Status.Conditions[0].Status = status
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().UpdateStatus(c.Context(), node, metav1.UpdateOptions{}))
}

func TestAMirrorThatMayNotBeUpdatedGivesWayToProxies(t *testing.T) {
	c := twoNatted(t)
	c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect)))
	c.forbid("update", `User "x" cannot update resource "services"`)
	c.edit("web", func(svc *v1.Service) { by(options.DatapathProxy)(svc); tcp(80, 81)(svc) })
	c.proxy("web", "n1", ready)
	c.mirrors("web", "10.0.0.2")
	c.proxy("web", "n2", ready)
	c.eventually("the mirror is gone", func() bool { return c.mirror("web") == nil })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestALiveServiceChangesItsDatapath(t *testing.T) {
	c := twoNatted(t)
	c.takeover = time.Hour
	stop := c.start()
	c.serve(service("web"))
	c.edit("web", by(options.DatapathDirect))
	c.mirrors("web", "10.0.0.1", "10.0.0.2")
	c.settle()
	if c.daemonSet("web") == nil || c.configMap("web") == nil {
		t.Fatal("the proxies went before kube-proxy had time to take over")
	}
	stop()
	c.takeover = 0
	c.start()
	c.eventually("the proxies are gone", func() bool { return c.daemonSet("web") == nil && c.configMap("web") == nil })
	for _, node := range []string{"n1", "n2"} {
		c.removeProxy("web", node)
	}
	c.publishes("web", "203.0.113.1", "203.0.113.2")

	c.edit("web", by(options.DatapathProxy))
	c.proxy("web", "n1", notReady)
	c.settle()
	c.mirrors("web", "10.0.0.1", "10.0.0.2")
	c.proxy("web", "n1", ready)
	c.mirrors("web", "10.0.0.2")
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.proxy("web", "n2", ready)
	c.eventually("the mirror is gone", func() bool { return c.mirror("web") == nil })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	for _, action := range c.kube.Actions() {
		if patch, ok := action.(clienttesting.PatchAction); ok && patch.GetName() == "web" && strings.Contains(string(patch.GetPatch()), `"ingress":null`) {
			t.Errorf("the addresses were taken away: %s", patch.GetPatch())
		}
	}
}

func TestKubeProxyIsRemindedOfFlowsOnceTheLastProxyIsGone(t *testing.T) {
	for name, tc := range map[string]struct {
		dead []string
		ends []string
	}{
		"which ends":             {nil, []string{"n1", "n2"}},
		"on any node that lives": {[]string{"n2"}, []string{"n1"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNatted(t)
			c.takeover = 0
			c.start()
			udp := service("web")
			udp.Spec.Ports = []v1.ServicePort{{Protocol: v1.ProtocolUDP, Port: 53}}
			c.serve(udp)
			c.edit("web", by(options.DatapathDirect))
			c.mirrors("web", "10.0.0.1", "10.0.0.2")
			says := func(want string) {
				t.Helper()
				c.eventually("the mirror says that proxies there are "+want, func() bool { return c.mirror("web").Labels[plan.LabelProxies] == want })
			}
			c.settle()
			says("some")
			for _, node := range tc.dead {
				c.readiness(node, v1.ConditionUnknown)
			}
			for _, node := range tc.ends {
				says("some")
				c.removeProxy("web", node)
			}
			says("none")
		})
	}
}

func TestAMirrorServesANodeUntilItsProxyIsReady(t *testing.T) {
	for _, mode := range []config.KubeProxyMode{config.KubeProxyIPTables, config.KubeProxyNFTables} {
		t.Run(string(mode), func(t *testing.T) {
			c := twoNatted(t)
			c.config.LoadBalancer.KubeProxyMode = mode
			c.start()
			ranges := []string{"198.51.100.0/24"}
			c.serveDirectly(service("web", by(options.DatapathDirect), func(svc *v1.Service) {
				svc.Spec.LoadBalancerSourceRanges = ranges
			}))
			c.edit("web", by(options.DatapathProxy))
			c.proxy("web", "n1", ready)
			c.mirrors("web", "10.0.0.2")
			if diff := cmp.Diff(ranges, c.mirror("web").Spec.LoadBalancerSourceRanges); diff != "" {
				t.Errorf("the mirror's source ranges (-want +got):\n%s", diff)
			}
			ranges = []string{"198.51.100.0/25"}
			c.edit("web", func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = ranges })
			c.eventually("the mirror follows an edit", func() bool { return slices.Equal(c.mirror("web").Spec.LoadBalancerSourceRanges, ranges) })
			c.proxy("web", "n2", ready)
			c.eventually("the mirror is gone", func() bool { return c.mirror("web") == nil })
		})
	}
}

// inMode is the ConfigMap that kubeadm creates for kube-proxy.
func inMode(mode string) *v1.ConfigMap {
	return &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy"},
		Data:       map[string]string{"config.conf": "kind: KubeProxyConfiguration\nmode: \"" + mode + "\"\n"},
	}
}

func TestAModeThatTurnsUnsafeEndsDirectAtOnce(t *testing.T) {
	turn := func(c *cluster) {
		must[*v1.ConfigMap](c)(c.kube.CoreV1().ConfigMaps("kube-system").Update(c.Context(), inMode("ipvs"), metav1.UpdateOptions{}))
		if news, err := c.direct().Mode.Refresh(c.Context()); !news || err != nil {
			c.Errorf("the change goes unnoticed: %v", err)
		}
		c.edit("web", func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "example.com/touched", "yes") })
		c.eventually("the mirror is gone", func() bool { return c.mirror("web") == nil })
	}
	t.Run("proxies follow for auto", func(t *testing.T) {
		c := twoNatted(t, inMode(""))
		c.config.LoadBalancer.KubeProxyMode = ""
		c.start()
		c.serveDirectly(service("web", by(options.DatapathAuto), local))
		turn(c)
		c.proxy("web", "n1", ready)
		c.publishes("web", "203.0.113.1")
		if mode := *c.service("web").Status.LoadBalancer.Ingress[0].IPMode; mode != v1.LoadBalancerIPModeProxy {
			t.Errorf("mode %s", mode)
		}
	})
	t.Run("nothing follows for direct", func(t *testing.T) {
		c := twoNatted(t, inMode("iptables"))
		c.config.LoadBalancer.KubeProxyMode = ""
		c.start()
		c.serveDirectly(service("web", by(options.DatapathDirect)))
		turn(c)
		c.publishes("web")
		c.settle()
		c.nothingLeft("web")
	})
	t.Run("even if the firewall fails at first", func(t *testing.T) {
		c := twoNatted(t, inMode("iptables"))
		c.config.LoadBalancer.KubeProxyMode = ""
		c.start()
		c.serveDirectly(service("web", by(options.DatapathDirect)))
		var asked atomic.Bool
		c.firewall.FailWith(func(string, firewall.Owner) error { asked.Store(true); return errors.New("down") })
		turn(c)
		c.eventually("the firewall was asked", asked.Load)
		c.firewall.FailWith(nil)
		c.edit("web", func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "example.com/touched", "again") })
		c.publishes("web")
		c.settle()
		c.nothingLeft("web")
	})
}
