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

// forbidMirrors makes the API server refuse a verb for the mirror of Service web. It takes the lock
// of the fake clientset, which adds reactors without it.
func (c *cluster) forbidMirrors(verb, message string) {
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
		return true, nil, apierrors.NewForbidden(v1.Resource("services"), name, fmt.Errorf("%s", message))
	})
}

func TestDirectIsUnavailable(t *testing.T) {
	mode := func(mode config.KubeProxyMode) func(c *cluster) {
		return func(c *cluster) { c.config.LoadBalancer.KubeProxyMode = mode }
	}
	for name, tt := range map[string]struct {
		prepare func(c *cluster)
		change  func(*v1.Service)
		words   []string
	}{
		"in kube-proxy mode ipvs":               {mode(config.KubeProxyIPVS), nil, []string{"ipvs", "cut nodes off"}},
		"without kube-proxy":                    {mode(config.KubeProxyNone), nil, []string{"no kube-proxy"}},
		"in an unknown kube-proxy mode":         {mode(""), nil, []string{"no ConfigMap kube-system/kube-proxy", "loadBalancer.kubeProxyMode"}},
		"without a selector":                    {nil, func(svc *v1.Service) { svc.Spec.Selector = nil }, []string{"no selector"}},
		"without permission to create Services": {func(c *cluster) { c.forbidMirrors("create", `User "x" cannot create resource "services"`) }, nil, []string{"manifests/components/direct", "namespace default"}},
		"with an exhausted quota": {func(c *cluster) {
			c.forbidMirrors("create", "exceeded quota: small, requested: services=1, used: services=5")
		}, nil, []string{"exceeded quota: small", "raise"}},
		"with an admission webhook that refuses mirrors": {func(c *cluster) { c.forbidMirrors("create", "admission webhook says no") }, nil, []string{"webhook says no"}},
	} {
		prepared := func(t *testing.T, choice options.DatapathChoice) (*cluster, *v1.Service) {
			c := twoTranslatedNodes(t)
			if tt.prepare != nil {
				tt.prepare(c)
			}
			svc := service("web", withDatapath(choice), policyLocal)
			if tt.change != nil {
				tt.change(svc)
			}
			c.endpoints("web", "n1", "n2") // Without endpoints, only the first published node would stay.
			c.start()
			return c, svc
		}
		t.Run(name+", auto falls back to proxies", func(t *testing.T) {
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
			c.eventually("a warning names the reason", func() bool { return c.hasEvent(append(tt.words, "Warning InvalidConfiguration web:")...) })
			c.settle()
			if got := c.warnings("web"); len(got) != 1 {
				t.Errorf("want one warning, got %q", got)
			}
			c.publishes("web")
			c.wantNoResources("web")
		})
	}
}

func TestAServiceWhoseNewDatapathIsRefusedKeepsItsProxies(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNone
	c.start()
	c.serve(service("web"))
	c.edit("web", withDatapath(options.DatapathDirect))
	c.eventually("a warning names the reason", func() bool { return c.hasEvent("Warning InvalidConfiguration web:") })
	c.settle()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	if c.daemonSet("web") == nil || !c.firewallAllows("web") {
		t.Error("the Service lost its proxies or its firewall rule")
	}
}

func TestARefusedServiceWithoutAMirrorPublishesNoAddresses(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	c.forbidMirrors("create", "exceeded quota: small, requested: services=1, used: services=5")
	if err := c.kube.Tracker().Delete(v1.SchemeGroupVersion.WithResource("services"), "default", plan.Name(service("web"))); err != nil {
		t.Fatal(err)
	}
	c.publishes("web")
	c.settle()
	c.wantNoResources("web")
}

func TestAForeignServiceWithTheNameOfTheMirrorIsNotTouched(t *testing.T) {
	for choice, reason := range map[options.DatapathChoice]string{options.DatapathAuto: "DatapathFallback", options.DatapathDirect: "InvalidConfiguration"} {
		t.Run(string(choice), func(t *testing.T) {
			c := twoTranslatedNodes(t)
			c.endpoints("web", "n1", "n2")
			c.start()
			c.serve(service("web"))
			foreign := service(plan.Name(service("web")), func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
			c.create(foreign)
			c.edit("web", withDatapath(choice))
			c.edit("web", policyLocal)
			c.eventually("a warning names the reason", func() bool {
				return c.hasEvent("Warning "+reason+" web:", foreign.Name+" exists and is not ours", "use datapath proxy")
			})
			c.settle()
			c.publishes("web", "203.0.113.1", "203.0.113.2")
			if c.daemonSet("web") == nil || !cmp.Equal(foreign.Spec, c.mirror("web").Spec) {
				t.Errorf("the Service lost its proxies, or the foreign Service is now %v", c.mirror("web"))
			}
			if got := c.warnings("web"); len(got) != 1 {
				t.Errorf("want one warning, got %q", got)
			}
		})
	}
}

func TestAMirrorThatCannotBeDeletedDoesNotBlockTheCutover(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	c.forbidMirrors("delete", `User "x" cannot delete resource "services"`)
	c.edit("web", withDatapath(options.DatapathProxy))
	c.proxy("web", "n1", ready)
	c.mirrorShows("web", "10.0.0.2")
	c.proxy("web", "n2", ready)
	c.mirrorShows("web")
	c.edit("web", tcp(80, 81))
	c.serves("web", "80/TCP", "81/TCP")
}

func TestAMirrorThatCannotBeUpdatedContinuesToServe(t *testing.T) {
	for _, choice := range []options.DatapathChoice{options.DatapathAuto, options.DatapathDirect} {
		t.Run(string(choice), func(t *testing.T) {
			c := twoTranslatedNodes(t)
			c.endpoints("web", "n1", "n2")
			c.start()
			c.serveDirectly(service("web", withDatapath(choice), policyLocal))
			c.forbidMirrors("update", `User "x" cannot update resource "services"`)
			c.edit("web", tcp(80, 81))
			c.eventually("a warning names the reason", func() bool {
				return c.hasEvent("Warning InvalidConfiguration web:", "may not update", "manifests/components/direct")
			})
			c.readiness("n2", v1.ConditionUnknown)
			c.publishes("web", "203.0.113.1")
			c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
			c.readiness("n2", v1.ConditionTrue)
			c.publishes("web", "203.0.113.1", "203.0.113.2")
			c.settle()
			if got := c.warnings("web"); len(got) != 1 || c.daemonSet("web") != nil || len(c.mirror("web").Spec.Ports) != 1 {
				t.Errorf("want one warning and an unchanged mirror, got %q, %v", got, c.mirror("web").Spec.Ports)
			}
		})
	}
}

// readiness sets the condition Ready of a node.
func (c *cluster) readiness(name string, status v1.ConditionStatus) {
	c.Helper()
	node := must[*v1.Node](c)(c.kube.CoreV1().Nodes().Get(c.Context(), name, metav1.GetOptions{})).DeepCopy()
	node.Status.Conditions[0].Status = status
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().UpdateStatus(c.Context(), node, metav1.UpdateOptions{}))
}

func TestAMirrorThatCannotBeUpdatedIsReplacedByProxies(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	c.forbidMirrors("update", `User "x" cannot update resource "services"`)
	c.edit("web", func(svc *v1.Service) { withDatapath(options.DatapathProxy)(svc); tcp(80, 81)(svc) })
	c.proxy("web", "n1", ready)
	c.mirrorShows("web", "10.0.0.2")
	c.proxy("web", "n2", ready)
	c.eventually("the mirror is deleted", func() bool { return c.mirror("web") == nil })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestACutoverToDirectAndBackKeepsTheAddresses(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.takeover = time.Hour
	stop := c.start()
	c.serve(service("web"))
	c.edit("web", withDatapath(options.DatapathDirect))
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.settle()
	if c.daemonSet("web") == nil || c.configMap("web") == nil {
		t.Fatal("the proxies were deleted before kube-proxy had time to take over")
	}
	stop()
	c.takeover = 0
	c.start()
	c.eventually("the proxies are deleted", func() bool { return c.daemonSet("web") == nil && c.configMap("web") == nil })
	for _, node := range []string{"n1", "n2"} {
		c.removeProxy("web", node)
	}
	c.settle() // The cache has no ready proxies any more.
	c.publishes("web", "203.0.113.1", "203.0.113.2")

	c.edit("web", withDatapath(options.DatapathProxy))
	c.proxy("web", "n1", notReady)
	c.settle()
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.proxy("web", "n1", ready)
	c.mirrorShows("web", "10.0.0.2")
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.proxy("web", "n2", ready)
	c.eventually("the mirror is deleted", func() bool { return c.mirror("web") == nil })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	for _, action := range c.kube.Actions() {
		if patch, ok := action.(clienttesting.PatchAction); ok && patch.GetName() == "web" && strings.Contains(string(patch.GetPatch()), `"ingress":null`) {
			t.Errorf("the addresses were removed: %s", patch.GetPatch())
		}
	}
}

func TestTheMirrorIsLabelledOnceTheLastProxyIsGone(t *testing.T) {
	for name, tc := range map[string]struct {
		dead       []string
		terminated []string
	}{
		"on all nodes":                {nil, []string{"n1", "n2"}},
		"on all nodes that are Ready": {[]string{"n2"}, []string{"n1"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoTranslatedNodes(t)
			c.takeover = 0
			c.start()
			udp := service("web")
			udp.Spec.Ports = []v1.ServicePort{{Protocol: v1.ProtocolUDP, Port: 53}}
			c.serve(udp)
			c.edit("web", withDatapath(options.DatapathDirect))
			c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
			wantLabel := func(want string) {
				t.Helper()
				c.eventually("the mirror has the label for proxies: "+want, func() bool { return c.mirror("web").Labels[plan.LabelProxies] == want })
			}
			c.settle()
			wantLabel("some")
			for _, node := range tc.dead {
				c.readiness(node, v1.ConditionUnknown)
			}
			for _, node := range tc.terminated {
				wantLabel("some")
				c.removeProxy("web", node)
			}
			wantLabel("none")
		})
	}
}

func TestAMirrorServesANodeUntilItsProxyIsReady(t *testing.T) {
	for _, mode := range []config.KubeProxyMode{config.KubeProxyIPTables, config.KubeProxyNFTables} {
		t.Run(string(mode), func(t *testing.T) {
			c := twoTranslatedNodes(t)
			c.config.LoadBalancer.KubeProxyMode = mode
			c.start()
			ranges := []string{"198.51.100.0/24"}
			c.serveDirectly(service("web", withDatapath(options.DatapathDirect), func(svc *v1.Service) {
				svc.Spec.LoadBalancerSourceRanges = ranges
			}))
			c.edit("web", withDatapath(options.DatapathProxy))
			c.proxy("web", "n1", ready)
			c.mirrorShows("web", "10.0.0.2")
			if diff := cmp.Diff(ranges, c.mirror("web").Spec.LoadBalancerSourceRanges); diff != "" {
				t.Errorf("the mirror's source ranges (-want +got):\n%s", diff)
			}
			ranges = []string{"198.51.100.0/25"}
			c.edit("web", func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = ranges })
			c.eventually("the mirror has the edited ranges", func() bool { return slices.Equal(c.mirror("web").Spec.LoadBalancerSourceRanges, ranges) })
			c.proxy("web", "n2", ready)
			c.eventually("the mirror is deleted", func() bool { return c.mirror("web") == nil })
		})
	}
}

// inMode returns the ConfigMap that kubeadm creates for kube-proxy.
func inMode(mode string) *v1.ConfigMap {
	return &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy"},
		Data:       map[string]string{"config.conf": "kind: KubeProxyConfiguration\nmode: \"" + mode + "\"\n"},
	}
}

func TestAnUnsafeKubeProxyModeStopsDirectAtOnce(t *testing.T) {
	changeMode := func(c *cluster) {
		must[*v1.ConfigMap](c)(c.kube.CoreV1().ConfigMaps("kube-system").Update(c.Context(), inMode("ipvs"), metav1.UpdateOptions{}))
		if changed, err := c.direct().Mode.Refresh(c.Context()); !changed || err != nil {
			c.Errorf("the changed mode is not detected: %v", err)
		}
		c.edit("web", func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "example.com/touched", "yes") })
		c.eventually("the mirror is deleted", func() bool { return c.mirror("web") == nil })
	}
	t.Run("auto falls back to proxies", func(t *testing.T) {
		c := twoTranslatedNodes(t, inMode(""))
		c.config.LoadBalancer.KubeProxyMode = ""
		c.start()
		c.serveDirectly(service("web", withDatapath(options.DatapathAuto), policyLocal))
		changeMode(c)
		c.proxy("web", "n1", ready)
		c.publishes("web", "203.0.113.1")
		if mode := *c.service("web").Status.LoadBalancer.Ingress[0].IPMode; mode != v1.LoadBalancerIPModeProxy {
			t.Errorf("mode %s", mode)
		}
	})
	t.Run("direct has no fallback", func(t *testing.T) {
		c := twoTranslatedNodes(t, inMode("iptables"))
		c.config.LoadBalancer.KubeProxyMode = ""
		c.start()
		c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
		changeMode(c)
		c.publishes("web")
		c.settle()
		c.wantNoResources("web")
	})
	t.Run("while the firewall fails", func(t *testing.T) {
		c := twoTranslatedNodes(t, inMode("iptables"))
		c.config.LoadBalancer.KubeProxyMode = ""
		c.start()
		c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
		var called atomic.Bool
		c.firewall.FailWith(func(string, firewall.Owner) error { called.Store(true); return errors.New("down") })
		changeMode(c)
		c.eventually("the firewall was called", called.Load)
		c.firewall.FailWith(nil)
		c.edit("web", func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "example.com/touched", "again") })
		c.publishes("web")
		c.settle()
		c.wantNoResources("web")
	})
}
