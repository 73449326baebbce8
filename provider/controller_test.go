package provider

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

func TestAServiceIsServedWithTheFewestWrites(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.create(service("web"))
	c.proxy("web", "n1", ready)
	c.publishes("web", "203.0.113.1")
	if !c.firewallAllows("web") {
		t.Error("the firewall does not allow the port")
	}
	got := slices.DeleteFunc(c.writes(), func(w string) bool { return w == "create services" || w == "create pods" })
	want := []string{"patch services/status", "create configmaps", "create daemonsets", "patch services/status"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("writes differ (-want +got):\n%s", diff)
	}
	finalizers := []string{view.Finalizer, servicehelper.LoadBalancerCleanupFinalizer}
	if diff := cmp.Diff(finalizers, c.service("web").Finalizers); diff != "" {
		t.Errorf("finalizers differ (-want +got):\n%s", diff)
	}
	if mode := c.service("web").Status.LoadBalancer.Ingress[0].IPMode; mode == nil || *mode != v1.LoadBalancerIPModeVIP {
		t.Errorf("ip mode: %v", mode)
	}
}

func TestNoWarningIsRecordedAgainAfterARestart(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web", withAnnotation(options.Prefix+"max-node", "2")))
	warned := func() (list []string) {
		return slices.DeleteFunc(c.events(), func(event string) bool { return !strings.HasPrefix(event, "Warning UnknownAnnotation web") })
	}
	c.eventually("a warning", func() bool { return len(warned()) == 1 })
	stop()
	c.start()
	c.settle()
	// Events are recorded in order, so a repeated one would come before this.
	c.edit("web", withAnnotation(options.Prefix+"max-nods", "2"))
	c.eventually("the warning about the new annotation", func() bool { return c.hasEvent("Warning UnknownAnnotation web", "max-nods") })
	if got := warned(); len(got) != 2 {
		t.Errorf("events %q", got)
	}
}

func TestNothingIsWrittenAgainAfterARestart(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web", ofClass(config.LoadBalancerClass)))
	stop()
	before, writes := c.service("web"), c.firewall.Writes()
	c.kube.ClearActions()
	var calls []string
	c.firewall.FailWith(func(method string, owner firewall.Owner) error {
		if method != "Owners" { // Garbage collection lists all owners.
			calls = append(calls, method+" "+owner.Service.Name)
		}
		return nil
	})
	c.start()
	c.settle()
	if diff := cmp.Diff(before, c.service("web")); diff != "" {
		t.Errorf("the Service changed (-before +after):\n%s", diff)
	}
	c.firewall.FailWith(nil)
	if calls[0] != "Ensure web" || c.firewall.Writes() != writes+1 {
		t.Errorf("want Ensure for web and one rule for the other Service, got calls %v and %d writes", calls, c.firewall.Writes()-writes)
	}
	want := []string{ // All for the other Service.
		"create services", "patch services/status", "create configmaps", "create daemonsets", "create pods", "create pods",
	}
	got := slices.DeleteFunc(c.writes(), func(w string) bool { return w == "patch services/status" })
	want = slices.DeleteFunc(want, func(w string) bool { return w == "patch services/status" })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("writes differ (-want +got):\n%s", diff)
	}
}

func TestTheStatusFollowsChanges(t *testing.T) {
	edit := func(c *cluster, change func(*v1.Node)) {
		ctx := context.Background()
		n := must[*v1.Node](c)(c.kube.CoreV1().Nodes().Get(ctx, "n2", metav1.GetOptions{})).DeepCopy()
		change(n)
		must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{}))
	}
	for name, c := range map[string]struct {
		event func(c *cluster)
		want  []string
	}{
		"a changed address": {func(c *cluster) {
			edit(c, func(n *v1.Node) { n.Status.Addresses[0].Address = "203.0.113.22" })
		}, []string{"203.0.113.1", "203.0.113.22"}},
		"a node that becomes not Ready": {func(c *cluster) {
			edit(c, func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionUnknown })
		}, []string{"203.0.113.1"}},
		"a node excluded from load balancers": {func(c *cluster) {
			edit(c, func(n *v1.Node) { n.Labels[v1.LabelNodeExcludeBalancers] = "" })
		}, []string{"203.0.113.1"}},
		"a node that the autoscaler will delete": {func(c *cluster) {
			edit(c, func(n *v1.Node) {
				n.Spec.Taints = []v1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: v1.TaintEffectNoSchedule}}
			})
		}, []string{"203.0.113.1"}},
		"a deleted node": {func(c *cluster) {
			if err := c.kube.CoreV1().Nodes().Delete(context.Background(), "n2", metav1.DeleteOptions{}); err != nil {
				c.Fatal(err)
			}
		}, []string{"203.0.113.1"}},
		"a proxy that becomes not ready": {func(c *cluster) { c.proxy("web", "n2", notReady) }, []string{"203.0.113.1"}},
		"a deleted proxy": {func(c *cluster) {
			c.removeProxy("web", "n2")
		}, []string{"203.0.113.1"}},
		"an edited annotation": {func(c *cluster) {
			c.edit("web", withAnnotation(options.MaxNodes, "1"))
		}, []string{"203.0.113.1"}},
		"a status cleared by another client": {func(c *cluster) {
			c.edit("web", func(svc *v1.Service) { svc.Status.LoadBalancer = v1.LoadBalancerStatus{} })
		}, []string{"203.0.113.1", "203.0.113.2"}},
		"a status edited by another client": {func(c *cluster) {
			c.edit("web", func(svc *v1.Service) { svc.Status.LoadBalancer.Ingress[0].IP = "192.0.2.1" })
		}, []string{"203.0.113.1", "203.0.113.2"}},
	} {
		t.Run(name, func(t *testing.T) {
			cl := twoNodes(t)
			cl.start()
			cl.serve(service("web"))
			c.event(cl)
			cl.publishes("web", c.want...)
		})
	}
}

func TestTheLastAddressStaysWhileProxiesAreReplaced(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.proxy("web", "n1", notReady)
	c.publishes("web", "203.0.113.2")
	c.proxy("web", "n2", notReady)
	c.settle()
	c.publishes("web", "203.0.113.2")
	c.proxy("web", "n1", ready)
	c.publishes("web", "203.0.113.1")
}

func TestManualChangesAreReverted(t *testing.T) {
	ctx := context.Background()
	for name, modify := range map[string]func(c *cluster){
		"a deleted DaemonSet": func(c *cluster) {
			if err := c.kube.AppsV1().DaemonSets(system).Delete(ctx, plan.Name(service("web")), metav1.DeleteOptions{}); err != nil {
				c.Fatal(err)
			}
		},
		"an edited DaemonSet": func(c *cluster) {
			ds := c.daemonSet("web")
			ds.Generation, ds.Spec.Template.Spec.Containers[0].Image = 2, "other"
			must[*appsv1.DaemonSet](c)(c.kube.AppsV1().DaemonSets(system).Update(ctx, ds, metav1.UpdateOptions{}))
		},
		"a deleted ConfigMap": func(c *cluster) {
			if err := c.kube.CoreV1().ConfigMaps(system).Delete(ctx, plan.Name(service("web")), metav1.DeleteOptions{}); err != nil {
				c.Fatal(err)
			}
		},
		"an edited ConfigMap": func(c *cluster) {
			cm := c.configMap("web")
			cm.Data = nil
			must[*v1.ConfigMap](c)(c.kube.CoreV1().ConfigMaps(system).Update(ctx, cm, metav1.UpdateOptions{}))
		},
		"finalizers removed from an existing Service": func(c *cluster) {
			c.edit("web", func(svc *v1.Service) { svc.Finalizers = nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("web"))
			spec, data, finalizers := c.daemonSet("web").Spec, c.configMap("web").Data, c.service("web").Finalizers
			modify(c)
			c.eventually("the change is reverted", func() bool {
				ds, cm := c.daemonSet("web"), c.configMap("web")
				return ds != nil && cm != nil && cmp.Equal(spec, ds.Spec) && cmp.Equal(data, cm.Data) && cmp.Equal(finalizers, c.service("web").Finalizers)
			})
		})
	}
}

func TestAChangedConfigReachesRunningProxies(t *testing.T) {
	for name, change := range map[string]func(*v1.Service){
		"source ranges": func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"} },
		"cluster IPs":   func(svc *v1.Service) { svc.Spec.ClusterIPs = []string{"10.96.0.8"} },
		"drain time":    func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.DrainSeconds, "600") },
		"client limit": func(svc *v1.Service) {
			metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.MaxConnectionsPerClient, "9")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("web"))
			daemonSet, data := c.daemonSet("web"), c.configMap("web").Data
			c.edit("web", change)
			c.eventually("the ConfigMap changes", func() bool { return !cmp.Equal(data, c.configMap("web").Data) })
			c.eventually("both pods are annotated, twice", func() bool { return c.touches() == 2*2 })
			if diff := cmp.Diff(daemonSet, c.daemonSet("web")); diff != "" {
				t.Errorf("the DaemonSet changed (-before +after):\n%s", diff)
			}
		})
	}
}

// touches counts the patches of pods.
func (c *cluster) touches() (n int) {
	for _, write := range c.writes() {
		if write == "patch pods" {
			n++
		}
	}
	return n
}

func TestServicesOfOtherClassesAreNotTouched(t *testing.T) {
	for name, c := range map[string]struct {
		classes config.Classes
		theirs  *v1.Service
	}{
		"of another class": {config.ClassesBoth, service("theirs", ofClass("example.com/other"))},
		"without a class, if only ours is configured": {config.ClassesClass, service("theirs")},
		"of our class, if only none is configured":    {config.ClassesNone, service("theirs", ofClass(config.LoadBalancerClass))},
	} {
		t.Run(name, func(t *testing.T) {
			cl := twoNodes(t)
			cl.config.LoadBalancer.Classes = c.classes
			cl.start()
			c.theirs.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer, "example.com/theirs"}
			cl.create(c.theirs)
			before := cl.service("theirs")
			ours := service("web")
			if c.classes == config.ClassesClass {
				ofClass(config.LoadBalancerClass)(ours)
			}
			cl.serve(ours)
			cl.delete("theirs")
			cl.edit("web", withAnnotation(options.MaxNodes, "1"))
			cl.publishes("web", "203.0.113.1")
			after := cl.service("theirs")
			after.DeletionTimestamp = nil
			if diff := cmp.Diff(before, after, cmpopts.IgnoreFields(metav1.ObjectMeta{}, "ResourceVersion", "ManagedFields")); diff != "" {
				t.Errorf("the Service changed (-before +after):\n%s", diff)
			}
			if cl.hasEvent("theirs") {
				t.Errorf("the Service has events: %v", cl.events())
			}
		})
	}
}

func TestTheStoredServiceKeepsItsClassAndAnnotations(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web", ofClass(config.LoadBalancerClass), withAnnotation("example.com/x", "y")))
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	got := c.service("web")
	if got.Spec.LoadBalancerClass == nil || *got.Spec.LoadBalancerClass != config.LoadBalancerClass || len(got.Annotations) != 1 {
		t.Errorf("got class %v, annotations %v", got.Spec.LoadBalancerClass, got.Annotations)
	}
}

func TestAForeignDaemonSetWithOurNameIsNotTouched(t *testing.T) {
	foreign := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: plan.Name(service("web")), Labels: map[string]string{"app": "theirs"}}}
	c := newCluster(t, node("n1", "203.0.113.1"), foreign)
	c.start()
	c.create(service("web"))
	c.eventually("an event names the DaemonSet", func() bool {
		return c.hasEvent("Warning SyncLoadBalancerFailed web:", "DaemonSet hostport-system/"+foreign.Name, "is not ours")
	})
	if c.firewallAllows("web") {
		t.Error("the firewall allows the port although there is no proxy")
	}
	c.delete("web")
	c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
	if ds := c.daemonSet("web"); ds == nil || ds.Labels["app"] != "theirs" || len(ds.Labels) != 1 {
		t.Errorf("the foreign DaemonSet changed: %v", ds)
	}
}

func TestAnInvalidAnnotationIsReportedAndOnlyBadAddressesLeave(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	before := c.daemonSet("web")
	c.edit("web", withAnnotation(options.MaxNodes, "many"))
	c.eventually("a warning names the annotation", func() bool {
		return c.hasEvent("Warning InvalidConfiguration web:", options.MaxNodes, `"many"`, "a whole number")
	})
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	c.proxy("web", "n2", ready)
	c.settle()
	c.publishes("web", "203.0.113.1")
	if !c.firewallAllows("web") {
		t.Error("the firewall does not allow the port any more")
	}
	if diff := cmp.Diff(before, c.daemonSet("web")); diff != "" {
		t.Errorf("the DaemonSet changed (-before +after):\n%s", diff)
	}
	if n := len(slices.DeleteFunc(c.events(), func(e string) bool { return !strings.HasPrefix(e, "Warning") })); n != 1 {
		t.Errorf("want one warning, got %v", c.events())
	}
	c.edit("web", withAnnotation(options.MaxNodes, "2"))
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestAnAddressThatNoNodeHasAnyMoreLeaves(t *testing.T) {
	for name, prepare := range map[string]func(c *cluster){
		"while the Service is refused": func(c *cluster) {
			c.edit("web", withAnnotation(options.MaxNodes, "many"))
			c.eventually("the Service is refused", func() bool { return c.hasEvent("Warning InvalidConfiguration web:") })
		},
		"while the firewall fails": func(c *cluster) {
			c.firewall.FailWith(func(string, firewall.Owner) error { return errors.New("down") })
			c.edit("web", tcp(81))
			c.eventually("the firewall fails", func() bool { return c.hasEvent("Warning FirewallUpdateFailed web:") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("web"))
			prepare(c)
			for _, node := range []string{"n1", "n2"} {
				if err := c.kube.CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			c.publishes("web")
		})
	}
}

func TestAServiceWithAnUnknownAnnotationIsServedWithAWarning(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web", withAnnotation(options.Prefix+"maxnodes", "1")))
	c.eventually("a warning names the annotation with the most similar name", func() bool {
		return c.hasEvent("Warning UnknownAnnotation web:", "hostport-ccm.io/maxnodes", "did you mean hostport-ccm.io/max-nodes?")
	})
}

func TestAMissingProxyImageIsReportedOnce(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.create(service("web"))
	pulling := func(reason string) func(*v1.Pod) {
		return func(pod *v1.Pod) {
			notReady(pod)
			pod.Status.ContainerStatuses = []v1.ContainerStatus{{Image: "proxy:1", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}}}
		}
	}
	c.proxy("web", "n1", pulling("ErrImagePull"))
	c.eventually("a warning names the image", func() bool { return c.hasEvent("Warning ProxyImageUnavailable web:", `"proxy:1"`, "n1") })
	c.proxy("web", "n2", pulling("ImagePullBackOff"))
	c.proxy("web", "n1", pulling("ImagePullBackOff"))
	c.settle()
	if n := len(slices.DeleteFunc(c.events(), func(e string) bool { return !strings.HasPrefix(e, "Warning") })); n != 1 {
		t.Errorf("want one warning, got %v", c.events())
	}
}

func TestWhileTheFirewallFailsAddressesAreOnlyRemoved(t *testing.T) {
	c := twoNodes(t)
	down := func(string, firewall.Owner) error { return errors.New("endpoint http://gce.invalid is down") }
	c.firewall.FailWith(down)
	c.start()
	c.create(service("new", tcp(81)))
	c.proxy("new", "n1", ready)
	c.eventually("a warning names the cause", func() bool {
		return c.hasEvent("Warning FirewallUpdateFailed new:", "endpoint http://gce.invalid is down")
	})
	c.firewall.FailWith(nil)
	c.serve(service("web"))
	c.firewall.FailWith(down)
	c.edit("web", tcp(443))
	c.eventually("a warning names the cause", func() bool { return c.hasEvent("Warning FirewallUpdateFailed web:", "is down") })
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	c.proxy("web", "n2", ready)
	c.delete("web")
	c.eventually("the deletion waits for the firewall", func() bool { return c.hasEvent("Warning SyncLoadBalancerFailed web:", "is down") })
	if c.isGone("web") {
		t.Error("the Service is deleted while the firewall still allows its port")
	}
}

func TestAnnotationFirewallNoneDeletesTheRules(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.edit("web", withAnnotation(options.Firewall, "none"))
	c.eventually("the firewall rule is deleted", func() bool { return !c.firewallAllows("web") })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}
