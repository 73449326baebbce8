package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// natted is a node whose external address is translated to an internal one.
func natted(n int) *v1.Node {
	node := node(fmt.Sprint("n", n), fmt.Sprint("203.0.113.", n))
	node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: fmt.Sprint("10.0.0.", n)})
	return node
}

// twoNatted is a cluster on GCE whose kube-proxies run in mode iptables.
func twoNatted(t *testing.T, objects ...runtime.Object) *cluster {
	c := newCluster(t, append(objects, natted(1), natted(2))...)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyIPTables
	c.config.LoadBalancer.Datapath = options.DatapathProxy
	return c
}

// by asks for a datapath.
func by(choice options.DatapathChoice) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.Selector = map[string]string{"app": svc.Name}
		metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.Datapath, string(choice))
	}
}

func local(svc *v1.Service) { svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal }

// mirrors waits until the mirror's status shows exactly these addresses.
func (c *cluster) mirrors(name string, want ...string) {
	c.Helper()
	c.eventually(fmt.Sprintf("the mirror of %s shows %v", name, want), func() bool {
		mirror := c.mirror(name)
		if mirror == nil {
			return false
		}
		var got []string
		for _, entry := range mirror.Status.LoadBalancer.Ingress {
			if *entry.IPMode == v1.LoadBalancerIPModeVIP {
				got = append(got, entry.IP)
			}
		}
		return slices.Equal(got, want)
	})
}

// serveDirectly creates a Service and waits until both nodes serve it.
func (c *cluster) serveDirectly(svc *v1.Service) {
	c.Helper()
	c.create(svc)
	c.mirrors(svc.Name, "10.0.0.1", "10.0.0.2")
	c.publishes(svc.Name, "203.0.113.1", "203.0.113.2")
}

func TestADirectServiceIsServedWithTheFewestWrites(t *testing.T) {
	c := twoNatted(t)
	c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect)))
	want := []string{"create services", "patch services/status", "create services", "patch services/status", "patch services/status"}
	if diff := cmp.Diff(want, c.writes()); diff != "" {
		t.Errorf("writes differ (-want +got):\n%s", diff)
	}
	if c.daemonSet("web") != nil || c.configMap("web") != nil || !c.isOpen("web") {
		t.Errorf("proxies: %v, %v, open: %v", c.daemonSet("web"), c.configMap("web"), c.isOpen("web"))
	}
	if mode := *c.service("web").Status.LoadBalancer.Ingress[0].IPMode; mode != v1.LoadBalancerIPModeVIP {
		t.Errorf("the translated address has mode %s", mode)
	}
}

func TestNothingIsWrittenForADirectServiceAfterARestart(t *testing.T) {
	c := twoNatted(t)
	stop := c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect), local))
	stop()
	before, mirror := c.service("web"), c.mirror("web")
	c.kube.ClearActions()
	c.start()
	c.settle()
	if diff := cmp.Diff([]any{before, mirror}, []any{c.service("web"), c.mirror("web")}); diff != "" {
		t.Errorf("something changed (-before +after):\n%s", diff)
	}
	for _, action := range c.kube.Actions() {
		if patch, ok := action.(clienttesting.PatchAction); ok && strings.Contains(patch.GetName(), "web") {
			t.Errorf("written: %s of %s: %s", patch.GetSubresource(), patch.GetName(), patch.GetPatch())
		}
	}
}

func TestAMirrorIsPutRight(t *testing.T) {
	ctx := context.Background()
	edit := func(change func(*v1.Service)) func(c *cluster) {
		return func(c *cluster) {
			mirror := c.mirror("web")
			change(mirror)
			must[*v1.Service](c)(c.kube.CoreV1().Services("default").Update(ctx, mirror, metav1.UpdateOptions{}))
		}
	}
	for name, harm := range map[string]func(c *cluster){
		"after it was deleted": func(c *cluster) {
			if err := c.kube.CoreV1().Services("default").Delete(ctx, plan.Name(service("web")), metav1.DeleteOptions{}); err != nil {
				c.Fatal(err)
			}
		},
		"after its ports were edited":     edit(func(svc *v1.Service) { svc.Spec.Ports[0].Port = 22 }),
		"after its selector was edited":   edit(func(svc *v1.Service) { svc.Spec.Selector = nil }),
		"after it got external IPs":       edit(func(svc *v1.Service) { svc.Spec.ExternalIPs = []string{"192.0.2.1"} }),
		"after its labels were removed":   edit(func(svc *v1.Service) { svc.Labels = nil }),
		"after it was shown to DNS":       edit(func(svc *v1.Service) { svc.Annotations = nil }),
		"after its owner was removed":     edit(func(svc *v1.Service) { svc.OwnerReferences = nil }),
		"after its status was wiped":      edit(func(svc *v1.Service) { svc.Status.LoadBalancer = v1.LoadBalancerStatus{} }),
		"after it became a ClusterIP one": edit(func(svc *v1.Service) { svc.Spec.Type, svc.Spec.LoadBalancerClass = v1.ServiceTypeClusterIP, nil }),
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNatted(t)
			c.start()
			c.serveDirectly(service("web", by(options.DatapathDirect)))
			before := c.mirror("web")
			harm(c)
			c.eventually("it is as it was", func() bool {
				now := c.mirror("web")
				return now != nil && cmp.Equal(before.Spec, now.Spec) && cmp.Equal(before.Status, now.Status) && cmp.Equal(before.Labels, now.Labels) &&
					cmp.Equal(before.Annotations, now.Annotations) && cmp.Equal(before.OwnerReferences, now.OwnerReferences)
			})
		})
	}
}

func TestAMirrorFollowsItsService(t *testing.T) {
	c := twoNatted(t)
	c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect)))
	c.edit("web", func(svc *v1.Service) { svc.Spec.Selector = map[string]string{"app": "other"} })
	c.eventually("it selects the other pods", func() bool { return c.mirror("web").Spec.Selector["app"] == "other" })
	c.edit("web", tcp(80, 443))
	c.eventually("it has the other port", func() bool { return len(c.mirror("web").Spec.Ports) == 2 })
	c.edit("web", func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"} })
	c.eventually("it has the ranges", func() bool { return len(c.mirror("web").Spec.LoadBalancerSourceRanges) == 1 })
}

func TestAMirrorShowsThePublishedNodesOnly(t *testing.T) {
	c := twoNatted(t)
	c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect)))
	c.edit("web", func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.MaxNodes, "1") })
	c.publishes("web", "203.0.113.1")
	c.mirrors("web", "10.0.0.1")
	n1 := natted(1)
	n1.Status.Conditions[0].Status = v1.ConditionFalse
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(t.Context(), n1, metav1.UpdateOptions{}))
	c.publishes("web", "203.0.113.2")
	c.mirrors("web", "10.0.0.2")
}

func TestTheLastNodeThatIsToBeRemovedServesOnWithoutProxies(t *testing.T) {
	c := newCluster(t, natted(1))
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyIPTables
	c.start()
	c.create(service("web", by(options.DatapathDirect)))
	c.publishes("web", "203.0.113.1")
	leaving := natted(1)
	leaving.Spec.Taints = []v1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: v1.TaintEffectNoSchedule}}
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(t.Context(), leaving, metav1.UpdateOptions{}))
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Create(t.Context(), natted(2), metav1.CreateOptions{}))
	c.publishes("web", "203.0.113.2")
	c.mirrors("web", "10.0.0.2")
	leaving = natted(2)
	leaving.Spec.Taints = []v1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: v1.TaintEffectNoSchedule}}
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(t.Context(), leaving, metav1.UpdateOptions{}))
	c.create(service("later", by(options.DatapathDirect), tcp(81))) // Who is handled after the taint came.
	c.eventually("the later one is looked at", func() bool { return c.mirror("later") != nil })
	c.publishes("web", "203.0.113.2")
	c.mirrors("web", "10.0.0.2")
}

func TestPolicyLocalFollowsTheEndpointsWithoutProxies(t *testing.T) {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Endpoints:  []discoveryv1.Endpoint{{NodeName: ptr.To("n2"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}},
	}
	c := twoNatted(t, slice)
	c.start()
	c.create(service("web", by(options.DatapathAuto), local))
	c.publishes("web", "203.0.113.2")
	c.mirrors("web", "10.0.0.2")
	moved := slice.DeepCopy()
	moved.Endpoints[0].NodeName = ptr.To("n1")
	must[*discoveryv1.EndpointSlice](c)(c.kube.DiscoveryV1().EndpointSlices("default").Update(t.Context(), moved, metav1.UpdateOptions{}))
	c.publishes("web", "203.0.113.1")
	c.mirrors("web", "10.0.0.1")
}

// forbid has the API server refuse to create mirrors.
func (c *cluster) forbid(verb, because string) {
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
			c.eventually("a warning says why", func() bool { return c.hasEvent(append(tt.words, "Warning LoadBalancerRefused web:")...) })
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
	c.eventually("a warning says why", func() bool { return c.hasEvent("Warning LoadBalancerRefused web:") })
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
	for choice, reason := range map[options.DatapathChoice]string{options.DatapathAuto: "DatapathFallback", options.DatapathDirect: "LoadBalancerRefused"} {
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
	c.edit("web", tcp(80, 81))
	c.proxy("web", "n1", notReady)
	c.publishes("web", "203.0.113.2")
}

func TestALiveServiceChangesItsDatapath(t *testing.T) {
	c := twoNatted(t)
	c.takeOver = time.Hour
	stop := c.start()
	c.serve(service("web"))
	c.edit("web", by(options.DatapathDirect))
	c.mirrors("web", "10.0.0.1", "10.0.0.2")
	c.settle()
	if c.daemonSet("web") == nil || c.configMap("web") == nil {
		t.Fatal("the proxies went before kube-proxy had time to take over")
	}
	stop()
	c.takeOver = 0
	c.start()
	c.eventually("the proxies are gone", func() bool { return c.daemonSet("web") == nil && c.configMap("web") == nil })
	for _, node := range []string{"n1", "n2"} {
		if err := c.kube.CoreV1().Pods(system).Delete(t.Context(), plan.Name(service("web"))+"-"+node, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
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

func TestAModeThatTurnsUnsafeEndsDirectAtOnce(t *testing.T) {
	turn := func(c *cluster) {
		must[*v1.ConfigMap](c)(c.kube.CoreV1().ConfigMaps("kube-system").Update(c.Context(), inMode("ipvs"), metav1.UpdateOptions{}))
		if news, err := c.balancer.kubeProxy.look(c.Context()); !news || err != nil {
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

func TestAPodsHostPortIsNotTakenFromIt(t *testing.T) {
	c := twoNatted(t, stranger("first", "n1", 80))
	c.start()
	c.create(service("web", by(options.DatapathDirect)))
	c.publishes("web", "203.0.113.2")
	c.mirrors("web", "10.0.0.2")
	c.eventually("a warning explains the node", func() bool { return c.hasEvent("Warning HostPortTaken web:", "node n1", "apps/first", "80/TCP") })
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), stranger("late", "n2", 80), metav1.CreateOptions{}))
	c.eventually("a warning explains the pod", func() bool {
		return c.hasEvent("Warning HostPortTaken web:", "apps/late asks for host port 80/TCP", "node n2")
	})
	c.settle()
	c.publishes("web", "203.0.113.2")
	c.mirrors("web", "10.0.0.2")
	if err := c.kube.CoreV1().Pods("apps").Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestInModeNFTablesAPodThatComesLaterHasItsHostPortToo(t *testing.T) {
	c := twoNatted(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNFTables
	c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect)))
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), stranger("late", "n2", 80), metav1.CreateOptions{}))
	c.publishes("web", "203.0.113.1")
	c.mirrors("web", "10.0.0.1")
	c.eventually("a warning explains the node", func() bool { return c.hasEvent("Warning HostPortTaken web:", "node n2", "apps/late", "80/TCP") })
}

func TestAMirrorHasNoPortOfOthers(t *testing.T) {
	c := twoNatted(t)
	c.config.LoadBalancer.ReservedPorts = []string{"22"}
	c.start()
	c.create(service("web", by(options.DatapathDirect), tcp(22, 80)))
	c.mirrors("web", "10.0.0.1", "10.0.0.2")
	if ports := c.mirror("web").Spec.Ports; len(ports) != 1 || ports[0].Port != 80 {
		t.Errorf("ports %v", ports)
	}
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.edit("web", tcp(22))
	c.losesAllPorts("web", "22/TCP", "reserved")
}

func TestADirectServiceGoesWithoutATrace(t *testing.T) {
	for name, prepare := range map[string]func(c *cluster){
		"with all rights":                     func(*cluster) {},
		"without the right to delete mirrors": func(c *cluster) { c.forbid("delete", `User "x" cannot delete resource "services"`) },
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNatted(t)
			c.start()
			c.serveDirectly(service("web", by(options.DatapathDirect)))
			prepare(c)
			c.delete("web")
			c.eventually("it is gone", func() bool { return c.isGone("web") })
			if c.isOpen("web") || name == "with all rights" && c.mirror("web") != nil {
				t.Errorf("left: open %v, %v", c.isOpen("web"), c.mirror("web"))
			}
		})
	}
}

// onMetal is a cluster without a cloud.
func onMetal(t *testing.T) *cluster {
	c := newCluster(t, natted(1), natted(2))
	c.config.Provider = config.ProviderNone
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNFTables
	c.config.LoadBalancer.ReservedPorts = []string{"22"}
	c.own = &ownAddresses{}
	return c
}

// publishesAs waits for both addresses in a mode.
func (c *cluster) publishesAs(name string, modes ...v1.LoadBalancerIPMode) {
	c.Helper()
	c.publishes(name, "203.0.113.1", "203.0.113.2")
	c.eventually(fmt.Sprintf("the modes of %s are %v", name, modes), func() bool {
		entries := c.service(name).Status.LoadBalancer.Ingress
		return len(entries) == 2 && *entries[0].IPMode == modes[0] && *entries[1].IPMode == modes[1]
	})
}

const vip, proxied = v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy

func TestOnBareMetalTheServiceIsItsOwnMirror(t *testing.T) {
	c := onMetal(t)
	stop := c.start()
	c.serve(service("web"))
	c.publishesAs("web", proxied, proxied)
	c.edit("web", by(options.DatapathDirect))
	c.publishesAs("web", vip, vip)
	c.eventually("the proxies are gone", func() bool { return c.daemonSet("web") == nil && c.configMap("web") == nil })
	for _, node := range []string{"n1", "n2"} {
		if err := c.kube.CoreV1().Pods(system).Delete(t.Context(), plan.Name(service("web"))+"-"+node, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	before := c.service("web")
	c.start()
	c.settle()
	if diff := cmp.Diff(before, c.service("web")); diff != "" {
		t.Errorf("a restart changed it (-before +after):\n%s", diff)
	}
	c.edit("web", by(options.DatapathProxy))
	c.proxy("web", "n1", ready)
	c.publishesAs("web", proxied, vip)
	c.proxy("web", "n2", ready)
	c.publishesAs("web", proxied, proxied)
	if c.mirror("web") != nil {
		t.Error("there is a mirror")
	}
}

func TestOnBareMetalNoPortOfOthersIsServed(t *testing.T) {
	for choice, want := range map[options.DatapathChoice][]string{
		options.DatapathDirect: {"Warning LoadBalancerRefused web:", "port 22/TCP is reserved"},
		options.DatapathAuto:   {"Warning DatapathFallback web:", "port 22/TCP is reserved"},
	} {
		t.Run(string(choice), func(t *testing.T) {
			c := onMetal(t)
			c.start()
			c.create(service("web", by(choice), local))
			c.publishesAs("web", vip, vip)
			c.edit("web", tcp(22, 80))
			c.eventually("kube-proxy is told to leave it", func() bool {
				return !slices.ContainsFunc(c.service("web").Status.LoadBalancer.Ingress, func(e v1.LoadBalancerIngress) bool { return *e.IPMode == vip })
			})
			c.eventually("a warning says why", func() bool { return c.hasEvent(want...) })
			if choice == options.DatapathDirect {
				c.publishes("web")
				c.settle()
				c.nothingLeft("web")
			}
		})
	}
}

func TestOnBareMetalAPodsHostPortIsNotTakenFromIt(t *testing.T) {
	c := onMetal(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyIPTables
	c.start()
	c.create(service("web", by(options.DatapathDirect)))
	c.publishesAs("web", vip, vip)
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), stranger("late", "n1", 80), metav1.CreateOptions{}))
	c.eventually("a warning explains the pod", func() bool {
		return c.hasEvent("Warning HostPortTaken web:", "apps/late asks for host port 80/TCP", "node n1")
	})
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), stranger("first", "n2", 443), metav1.CreateOptions{}))
	c.edit("web", tcp(80, 443))
	c.publishes("web", "203.0.113.1")
}
