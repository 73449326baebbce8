package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// mirrorShows waits until the status of the mirror has exactly these addresses.
func (c *cluster) mirrorShows(name string, want ...string) {
	c.Helper()
	c.eventually(fmt.Sprintf("the mirror of %s has the addresses %v", name, want), func() bool {
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

// serveDirectly creates a Service and waits until kube-proxy serves it on both nodes.
func (c *cluster) serveDirectly(svc *v1.Service) {
	c.Helper()
	c.create(svc)
	c.mirrorShows(svc.Name, "10.0.0.1", "10.0.0.2")
	c.publishes(svc.Name, "203.0.113.1", "203.0.113.2")
}

func TestADirectServiceIsServedWithTheFewestWrites(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	want := []string{"create services", "patch services/status", "create services", "patch services/status", "patch services/status"}
	if diff := cmp.Diff(want, c.writes()); diff != "" {
		t.Errorf("writes differ (-want +got):\n%s", diff)
	}
	if c.daemonSet("web") != nil || c.configMap("web") != nil || !c.firewallAllows("web") {
		t.Errorf("DaemonSet %v, ConfigMap %v, allowed by the firewall: %v", c.daemonSet("web"), c.configMap("web"), c.firewallAllows("web"))
	}
	if mode := *c.service("web").Status.LoadBalancer.Ingress[0].IPMode; mode != v1.LoadBalancerIPModeVIP {
		t.Errorf("the translated address has mode %s", mode)
	}
}

func TestNothingIsWrittenForADirectServiceAfterARestart(t *testing.T) {
	c := twoTranslatedNodes(t)
	stop := c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect), policyLocal))
	stop()
	before, mirror := c.service("web"), c.mirror("web")
	c.kube.ClearActions()
	c.start()
	c.settle()
	if diff := cmp.Diff([]any{before, mirror}, []any{c.service("web"), c.mirror("web")}); diff != "" {
		t.Errorf("Service or mirror changed (-before +after):\n%s", diff)
	}
	for _, action := range c.kube.Actions() {
		if patch, ok := action.(clienttesting.PatchAction); ok && strings.Contains(patch.GetName(), "web") {
			t.Errorf("patched %s of %s: %s", patch.GetSubresource(), patch.GetName(), patch.GetPatch())
		}
	}
}

func TestManualChangesOfAMirrorAreReverted(t *testing.T) {
	ctx := context.Background()
	edit := func(change func(*v1.Service)) func(c *cluster) {
		return func(c *cluster) {
			mirror := c.mirror("web")
			change(mirror)
			must[*v1.Service](c)(c.kube.CoreV1().Services("default").Update(ctx, mirror, metav1.UpdateOptions{}))
		}
	}
	for name, modify := range map[string]func(c *cluster){
		"the mirror was deleted": func(c *cluster) {
			if err := c.kube.CoreV1().Services("default").Delete(ctx, plan.Name(service("web")), metav1.DeleteOptions{}); err != nil {
				c.Fatal(err)
			}
		},
		"its ports were edited":                           edit(func(svc *v1.Service) { svc.Spec.Ports[0].Port = 22 }),
		"its selector was removed":                        edit(func(svc *v1.Service) { svc.Spec.Selector = nil }),
		"external IPs were added":                         edit(func(svc *v1.Service) { svc.Spec.ExternalIPs = []string{"192.0.2.1"} }),
		"its labels were removed":                         edit(func(svc *v1.Service) { svc.Labels = nil }),
		"its annotations were removed":                    edit(func(svc *v1.Service) { svc.Annotations = nil }),
		"its owner reference was removed":                 edit(func(svc *v1.Service) { svc.OwnerReferences = nil }),
		"its labels and its owner reference were removed": edit(func(svc *v1.Service) { svc.Labels, svc.OwnerReferences = nil, nil }),
		"its status was cleared":                          edit(func(svc *v1.Service) { svc.Status.LoadBalancer = v1.LoadBalancerStatus{} }),
		"its type was changed to ClusterIP":               edit(func(svc *v1.Service) { svc.Spec.Type, svc.Spec.LoadBalancerClass = v1.ServiceTypeClusterIP, nil }),
	} {
		t.Run(name, func(t *testing.T) {
			c := twoTranslatedNodes(t)
			c.start()
			c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
			before := c.mirror("web")
			modify(c)
			c.eventually("the change is reverted", func() bool {
				current := c.mirror("web")
				return current != nil && cmp.Equal(before.Spec, current.Spec) && cmp.Equal(before.Status, current.Status) && cmp.Equal(before.Labels, current.Labels) &&
					cmp.Equal(before.Annotations, current.Annotations) && cmp.Equal(before.OwnerReferences, current.OwnerReferences)
			})
		})
	}
}

func TestAMirrorFollowsItsService(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	c.edit("web", func(svc *v1.Service) { svc.Spec.Selector = map[string]string{"app": "other"} })
	c.eventually("the mirror selects the other pods", func() bool { return c.mirror("web").Spec.Selector["app"] == "other" })
	c.edit("web", tcp(80, 443))
	c.eventually("the mirror has the other port", func() bool { return len(c.mirror("web").Spec.Ports) == 2 })
	c.edit("web", func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"} })
	c.eventually("the mirror has the ranges", func() bool { return len(c.mirror("web").Spec.LoadBalancerSourceRanges) == 1 })
}

func TestAMirrorHasAllPlannedNodes(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	c.edit("web", func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.MaxNodes, "1") })
	c.publishes("web", "203.0.113.1")
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	n1 := translatedNode(1)
	n1.Status.Conditions[0].Status = v1.ConditionFalse
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(t.Context(), n1, metav1.UpdateOptions{}))
	c.publishes("web", "203.0.113.2")
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.editNode("n1", func(n *v1.Node) { n.Labels[v1.LabelNodeExcludeBalancers] = "" })
	c.mirrorShows("web", "10.0.0.2")
}

func TestTheMirrorOfARefusedServiceLosesBadAddresses(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	c.edit("web", func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.MaxNodes, "many") })
	c.eventually("the Service is refused", func() bool { return c.hasEvent("Warning InvalidConfiguration web:") })
	c.readiness("n1", v1.ConditionUnknown)
	c.publishes("web", "203.0.113.2")
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.editNode("n1", func(n *v1.Node) { n.Labels[v1.LabelNodeExcludeBalancers] = "" })
	c.mirrorShows("web", "10.0.0.2")
	c.editNode("n1", func(n *v1.Node) { delete(n.Labels, v1.LabelNodeExcludeBalancers) })
	c.readiness("n1", v1.ConditionTrue)
	c.settle()
	c.publishes("web", "203.0.113.2")
	c.mirrorShows("web", "10.0.0.2")
}

func TestWithoutProxiesTheLastNodeServesUntilItIsRemoved(t *testing.T) {
	c := newCluster(t, translatedNode(1))
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyIPTables
	c.start()
	c.create(service("web", withDatapath(options.DatapathDirect)))
	c.publishes("web", "203.0.113.1")
	tainted := translatedNode(1)
	tainted.Spec.Taints = []v1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: v1.TaintEffectNoSchedule}}
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(t.Context(), tainted, metav1.UpdateOptions{}))
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Create(t.Context(), translatedNode(2), metav1.CreateOptions{}))
	c.publishes("web", "203.0.113.2")
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	tainted = translatedNode(2)
	tainted.Spec.Taints = []v1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: v1.TaintEffectNoSchedule}}
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(t.Context(), tainted, metav1.UpdateOptions{}))
	c.create(service("later", withDatapath(options.DatapathDirect), tcp(81))) // It is reconciled after the taint is in the cache.
	c.eventually("the later Service is reconciled", func() bool { return c.mirror("later") != nil })
	c.publishes("web", "203.0.113.2")
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
}

func TestWithPolicyLocalTheMirrorDoesNotFollowTheEndpoints(t *testing.T) {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Endpoints:  []discoveryv1.Endpoint{{NodeName: ptr.To("n2"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}},
	}
	c := twoTranslatedNodes(t, slice)
	c.start()
	c.create(service("web", withDatapath(options.DatapathAuto), policyLocal))
	c.publishes("web", "203.0.113.2")
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.kube.ClearActions()
	moved := slice.DeepCopy()
	moved.Endpoints[0].NodeName = ptr.To("n1")
	must[*discoveryv1.EndpointSlice](c)(c.kube.DiscoveryV1().EndpointSlices("default").Update(t.Context(), moved, metav1.UpdateOptions{}))
	c.publishes("web", "203.0.113.1")
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	if writes := c.writes(); !slices.Equal(writes, []string{"update endpointslices", "patch services/status"}) {
		t.Errorf("got writes %v", writes)
	}
}

func TestAPodKeepsItsHostPort(t *testing.T) {
	c := twoTranslatedNodes(t, foreignPod("first", "n1", 80))
	c.start()
	c.create(service("web", withDatapath(options.DatapathDirect)))
	c.publishes("web", "203.0.113.2")
	c.mirrorShows("web", "10.0.0.2")
	c.eventually("a warning names the node", func() bool { return c.hasEvent("Warning HostPortConflict web:", "node n1", "apps/first", "80/TCP") })
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), foreignPod("late", "n2", 80), metav1.CreateOptions{}))
	c.eventually("a warning names the pod", func() bool {
		return c.hasEvent("Warning HostPortConflict web:", "apps/late asks for host port 80/TCP", "node n2")
	})
	c.settle()
	c.publishes("web", "203.0.113.2")
	c.mirrorShows("web", "10.0.0.2")
	if err := c.kube.CoreV1().Pods("apps").Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestInModeNFTablesALaterPodGetsItsHostPort(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNFTables
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), foreignPod("late", "n2", 80), metav1.CreateOptions{}))
	c.publishes("web", "203.0.113.1")
	c.mirrorShows("web", "10.0.0.1")
	c.eventually("a warning names the node", func() bool { return c.hasEvent("Warning HostPortConflict web:", "node n2", "apps/late", "80/TCP") })
}

func TestInModeNFTablesADrainingProxyKeepsItsHostPort(t *testing.T) {
	for mode, waits := range map[config.KubeProxyMode]bool{config.KubeProxyNFTables: true, config.KubeProxyIPTables: false} {
		t.Run(string(mode), func(t *testing.T) {
			c := twoTranslatedNodes(t)
			c.config.LoadBalancer.KubeProxyMode = mode
			c.start()
			c.serve(service("old"))
			c.create(service("web", withDatapath(options.DatapathDirect)))
			c.eventually("the Service waits for its port", func() bool { return c.hasEvent("Warning PortConflict web:", "default/old") })
			c.delete("old") // Its proxies drain.
			c.eventually("the Service gets its port", func() bool { return c.mirror("web") != nil })
			c.settle()
			for i, want := range [][]string{{}, {"203.0.113.1"}, {"203.0.113.1", "203.0.113.2"}} {
				if i > 0 {
					c.removeProxy("old", fmt.Sprint("n", i))
				}
				if !waits {
					want = []string{"203.0.113.1", "203.0.113.2"}
				}
				c.publishes("web", want...)
			}
			c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
		})
	}
}

func TestAServingNodeStaysWhileANewPortIsOccupied(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNFTables
	c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect), tcp(443)))
	c.serve(service("old"))
	c.edit("web", tcp(443, 80))
	c.eventually("the Service waits for its port", func() bool { return c.hasEvent("Warning PortConflict web:", "default/old") })
	c.delete("old")
	c.eventually("the Service gets its port", func() bool { return len(c.mirror("web").Spec.Ports) == 2 })
	c.settle()
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestProxiesStayUntilNodesCanBeServedDirectly(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNFTables
	c.takeover = time.Millisecond
	c.start()
	c.serve(service("web", tcp(443)))
	c.serve(service("old"))
	c.edit("web", tcp(443, 80))
	c.eventually("the Service waits for its port", func() bool { return c.hasEvent("Warning PortConflict web:", "default/old") })
	c.delete("old") // Its proxies drain.
	c.serves("web", "443/TCP", "80/TCP")
	c.edit("web", withDatapath(options.DatapathDirect))
	c.eventually("there is a mirror", func() bool { return c.mirror("web") != nil })
	c.settle()
	if c.daemonSet("web") == nil {
		t.Error("the proxies were deleted while no node is served directly")
	}
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.removeProxy("old", "n1")
	c.removeProxy("old", "n2")
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.eventually("the proxies are deleted", func() bool { return c.daemonSet("web") == nil })
}

func TestAMirrorOmitsReservedPorts(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.config.LoadBalancer.ReservedPorts = []string{"22"}
	c.start()
	c.create(service("web", withDatapath(options.DatapathDirect), tcp(22, 80)))
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	if ports := c.mirror("web").Spec.Ports; len(ports) != 1 || ports[0].Port != 80 {
		t.Errorf("ports %v", ports)
	}
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.edit("web", tcp(22))
	c.losesAllPorts("web", "22/TCP", "reserved")
}

func TestADeletedDirectServiceHasNoResources(t *testing.T) {
	for name, prepare := range map[string]func(c *cluster){
		"with all permissions":                 func(*cluster) {},
		"without permission to delete mirrors": func(c *cluster) { c.forbidMirrors("delete", `User "x" cannot delete resource "services"`) },
		"after a change to ClusterIP without permission to delete mirrors": func(c *cluster) {
			c.forbidMirrors("delete", `User "x" cannot delete resource "services"`)
			c.edit("web", func(svc *v1.Service) { svc.Spec.Type, svc.Status = v1.ServiceTypeClusterIP, v1.ServiceStatus{} })
			c.eventually("the mirror is empty", func() bool { return len(c.mirror("web").Status.LoadBalancer.Ingress) == 0 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoTranslatedNodes(t)
			c.start()
			c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
			prepare(c)
			c.delete("web")
			c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
			mirror := c.mirror("web")
			if c.firewallAllows("web") || name == "with all permissions" && mirror != nil || mirror != nil && len(mirror.Status.LoadBalancer.Ingress) > 0 {
				t.Errorf("allowed by the firewall: %v, mirror %v", c.firewallAllows("web"), mirror)
			}
		})
	}
}

func TestAMirrorWithoutItsServiceIsEmptiedAndDeleted(t *testing.T) {
	c := twoTranslatedNodes(t)
	stop := c.start()
	c.serveDirectly(service("web", withDatapath(options.DatapathDirect)))
	c.serveDirectly(service("kept", withDatapath(options.DatapathDirect), tcp(81)))
	stop()
	// All that connects the mirror with its Service is removed, so Kubernetes does not delete it.
	mirror := c.mirror("web")
	mirror.Labels, mirror.OwnerReferences = nil, nil
	must[*v1.Service](c)(c.kube.CoreV1().Services("default").Update(t.Context(), mirror, metav1.UpdateOptions{}))
	if err := c.kube.Tracker().Delete(v1.SchemeGroupVersion.WithResource("services"), "default", "web"); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.eventually("the mirror is deleted", func() bool { return c.mirror("web") == nil })
	if c.mirror("kept") == nil {
		t.Error("the mirror of a Service that exists was deleted")
	}
}

const vip, proxied = v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy

func udpOnly(svc *v1.Service) {
	svc.Spec.Ports = []v1.ServicePort{{Protocol: v1.ProtocolUDP, Port: 53}}
}

func TestANewMirrorWithUDPPortsGetsItsAddressesLater(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.takeover = time.Hour
	created := metav1.Now()
	c.kube.PrependReactor("create", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		action.(clienttesting.CreateAction).GetObject().(*v1.Service).CreationTimestamp = created
		return false, nil, nil
	})
	c.start()
	c.serve(service("web", udpOnly))
	created = metav1.Now()
	c.edit("web", withDatapath(options.DatapathDirect))
	c.eventually("there is a mirror", func() bool { return c.mirror("web") != nil })
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	if shown := c.mirror("web").Status.LoadBalancer.Ingress; len(shown) > 0 && time.Since(created.Time) < 3*time.Second {
		t.Errorf("the mirror has the addresses %v at once", shown)
	}
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}
