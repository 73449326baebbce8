package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func (c *cluster) condition(name string) *metav1.Condition {
	return meta.FindStatusCondition(c.service(name).Status.Conditions, v1.LoadBalancerPortsError)
}

func (c *cluster) losesAllPorts(name string, words ...string) {
	c.Helper()
	c.eventually("a condition of "+name+" names the reason", func() bool {
		condition := c.condition(name)
		return condition != nil && condition.Status == metav1.ConditionTrue &&
			!slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(condition.Message, word) })
	})
	c.eventually("a warning names the reason", func() bool { return c.hasEvent(append(words, "Warning PortConflict "+name)...) })
	c.publishes(name)
	c.wantNoResources(name)
}

func (c *cluster) warnings(name string) (list []string) {
	for _, event := range c.events() {
		if strings.HasPrefix(event, "Warning") && strings.Contains(event, " "+name+":") {
			list = append(list, event)
		}
	}
	return list
}

func TestTheYoungerOfTwoServicesWaitsForItsPort(t *testing.T) {
	for name, free := range map[string]func(c *cluster){
		"until the older is deleted":          func(c *cluster) { c.delete("old") },
		"until the older gives up the port":   func(c *cluster) { c.edit("old", tcp(8080)) },
		"until the older has type ClusterIP":  func(c *cluster) { c.edit("old", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP }) },
		"until the older selects other nodes": func(c *cluster) { c.edit("old", withAnnotation(options.NodeSelector, "pool=other")) },
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("old", createdAt(1)))
			c.create(service("young", createdAt(2)))
			c.losesAllPorts("young", "80/TCP", "Service default/old", options.NodeSelector)
			free(c)
			c.proxy("young", "n1", ready)
			c.publishes("young", "203.0.113.1")
			c.eventually("the firewall allows the port", func() bool { return c.firewallAllows("young") })
			c.eventually("the condition is False", func() bool {
				condition := c.condition("young")
				return condition.Status == metav1.ConditionFalse && condition.Message == ""
			})
			if got := c.warnings("young"); len(got) != 1 {
				t.Errorf("want one warning, got %q", got)
			}
			if c.hasEvent("Warning PortConflict old:") {
				t.Errorf("the older has warnings: %q", c.warnings("old"))
			}
		})
	}
}

func TestALiveServiceKeepsItsPortWhenAnOlderOneAsksForIt(t *testing.T) {
	isClusterIP := func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP }
	asksForPort := func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeLoadBalancer; tcp(80)(svc) }
	for name, live := range map[string]func(*v1.Service){
		"with proxies":       func(*v1.Service) {},
		"by datapath direct": withDatapath(options.DatapathDirect),
	} {
		t.Run(name, func(t *testing.T) {
			cl := twoTranslatedNodes(t)
			cl.config.LoadBalancer.KubeProxyMode = config.KubeProxyIPTables
			stop := cl.start()
			cl.create(service("old", createdAt(1), tcp(6070), isClusterIP))
			cl.create(service("live", createdAt(2), live))
			if cl.service("live").Annotations == nil {
				cl.proxy("live", "n1", ready)
				cl.proxy("live", "n2", ready)
			}
			cl.publishes("live", "203.0.113.1", "203.0.113.2")
			cl.edit("old", asksForPort)
			cl.losesAllPorts("old", "80/TCP", "Service default/live")
			stop() // Who has the port is known from what exists, not from memory.
			cl.start()
			cl.edit("old", withAnnotation(options.DrainSeconds, "4"))
			cl.create(service("later", tcp(81)))
			cl.proxy("later", "n1", ready)
			cl.publishes("later", "203.0.113.1")
			cl.settle()
			cl.publishes("live", "203.0.113.1", "203.0.113.2")
			cl.publishes("old")
			if got := cl.warnings("live"); len(got) > 0 {
				t.Errorf("warnings: %q", got)
			}
			cl.delete("live")
			cl.proxy("old", "n1", ready)
			cl.publishes("old", "203.0.113.1")
		})
	}
}

func TestARefusedServiceKeepsNoPortFromOthers(t *testing.T) {
	for name, refused := range map[string]func(*v1.Service){
		"with an invalid annotation":   withAnnotation(options.MaxNodes, "many"),
		"that kube-proxy cannot serve": withDatapath(options.DatapathDirect),
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.create(service("refused", createdAt(1), refused))
			c.eventually("the Service is refused", func() bool { return c.hasEvent("Warning InvalidConfiguration refused:") })
			c.serve(service("web", createdAt(2)))
			c.settle()
			c.publishes("web", "203.0.113.1", "203.0.113.2")
			c.edit("refused", func(svc *v1.Service) { svc.Annotations = nil })
			c.losesAllPorts("refused", "80/TCP", "Service default/web")
		})
	}
}

func TestAPortOfKubeProxyIsNotServed(t *testing.T) {
	nodePort := func(svc *v1.Service) { svc.Spec.Type, svc.Spec.Ports[0].NodePort = v1.ServiceTypeNodePort, 80 }
	externalIP := func(svc *v1.Service) {
		svc.Spec.Type, svc.Spec.ExternalIPs = v1.ServiceTypeClusterIP, []string{"203.0.113.1"}
	}
	for name, c := range map[string]struct {
		mode      config.KubeProxyMode
		other     func(*v1.Service)
		before    bool
		published []string
		warning   []string
	}{
		"that was a node port before":                 {config.KubeProxyNFTables, nodePort, true, nil, []string{"PortConflict", "spec.ports[].nodePort of Service default/other"}},
		"that becomes a node port":                    {config.KubeProxyIPTables, nodePort, false, nil, []string{"PortConflict", "spec.ports[].nodePort of Service default/other"}},
		"that is taken on one node":                   {config.KubeProxyIPTables, externalIP, false, []string{"203.0.113.2"}, []string{"ProxyUnschedulable", "node n1", "spec.externalIPs of Service default/other"}},
		"that is taken on one node, in mode nftables": {config.KubeProxyNFTables, externalIP, false, []string{"203.0.113.2"}, []string{"ProxyUnschedulable", "node n1", "spec.externalIPs of Service default/other"}},
	} {
		t.Run(name, func(t *testing.T) {
			cl := twoNodes(t)
			cl.config.LoadBalancer.KubeProxyMode = c.mode
			cl.start()
			if c.before {
				cl.create(service("other", c.other))
				cl.create(service("web"))
			} else {
				cl.serve(service("web"))
				cl.create(service("other", c.other))
			}
			cl.eventually("a warning names the Service", func() bool { return cl.hasEvent(append(c.warning, "Warning", " web:")...) })
			cl.settle()
			cl.publishes("web", c.published...)
			cl.delete("other")
			cl.proxy("web", "n1", ready)
			cl.proxy("web", "n2", ready)
			cl.publishes("web", "203.0.113.1", "203.0.113.2")
		})
	}
}

func TestAServiceThatLosesOnePortServesTheOthers(t *testing.T) {
	c := twoNodes(t)
	c.config.LoadBalancer.IPMode = v1.LoadBalancerIPModeVIP
	c.start()
	c.serve(service("old", createdAt(1)))
	c.serve(service("young", createdAt(2), tcp(80, 443)))
	if mode := c.service("old").Status.LoadBalancer.Ingress[0].IPMode; *mode != v1.LoadBalancerIPModeVIP {
		t.Errorf("a Service with all its ports has IP mode %s", *mode)
	}
	portOf := func(p v1.PortStatus) string {
		if p.Error != nil {
			return *p.Error
		}
		return "served"
	}
	for _, entry := range c.service("young").Status.LoadBalancer.Ingress {
		if *entry.IPMode != v1.LoadBalancerIPModeProxy {
			t.Errorf("kube-proxy would serve the port of the older Service at %s", entry.IP)
		}
		got := []string{}
		for _, p := range entry.Ports {
			got = append(got, portOf(p))
		}
		if diff := cmp.Diff([]string{"hostport-ccm.io/PortConflict", "served"}, got); diff != "" {
			t.Errorf("ports of %s differ (-want +got):\n%s", entry.IP, diff)
		}
	}
	ports := c.daemonSet("young").Spec.Template.Spec.Containers[0].Ports
	if len(ports) != 1 || ports[0].HostPort != 443 {
		t.Errorf("proxies have ports %v", ports)
	}
	for _, rule := range c.firewall.Rules() {
		if allowed := fmt.Sprint(rule.Allowed); strings.Contains(rule.Name, "young") && (!strings.Contains(allowed, "443") || strings.Contains(allowed, " 80")) {
			t.Errorf("the firewall allows %s", allowed)
		}
	}
	before := c.daemonSet("young")
	c.delete("old")
	c.serves("young", "443/TCP", "80/TCP")
	c.settle()
	if entry := c.service("young").Status.LoadBalancer.Ingress[0]; len(entry.Ports) != 2 || entry.Ports[0].Error == nil || c.condition("young").Status != metav1.ConditionTrue {
		t.Errorf("the port is reported as served while the proxies of the older Service still use it: %+v, %+v", entry, c.condition("young"))
	}
	c.proxyOf(1, "young", "n1", ready)
	c.proxyOf(1, "young", "n2", ready)
	c.eventually("both ports are served", func() bool {
		status := c.service("young").Status.LoadBalancer
		return c.daemonSetOf(1, "young") != nil && len(status.Ingress) == 2 && status.Ingress[0].Ports == nil
	})
	if diff := cmp.Diff(before, c.daemonSet("young")); diff != "" {
		t.Errorf("its first DaemonSet changed (-before +after):\n%s", diff)
	}
}

func TestServicesOnDisjointNodesShareAPort(t *testing.T) {
	n1, n2 := node("n1", "203.0.113.1"), node("n2", "203.0.113.2")
	n1.Labels["pool"], n2.Labels["pool"] = "a", "b"
	c := newCluster(t, n1, n2)
	c.start()
	c.create(service("one", createdAt(1), withAnnotation(options.NodeSelector, "pool=a")))
	c.create(service("two", createdAt(2), withAnnotation(options.NodeSelector, "pool=b")))
	c.proxy("one", "n1", ready)
	c.proxy("two", "n2", ready)
	c.publishes("one", "203.0.113.1")
	c.publishes("two", "203.0.113.2")
	if c.condition("one") != nil || c.condition("two") != nil {
		t.Error("there is a condition without a conflict")
	}
}

func TestAReservedPortIsRefused(t *testing.T) {
	c := twoNodes(t)
	c.config.LoadBalancer.ReservedPorts = []string{"10248-10260/TCP"}
	c.start()
	c.create(service("web", tcp(10250)))
	c.losesAllPorts("web", "10250/TCP", "reserved for kubelet", "loadBalancer.reservedPorts")
}

func TestHostPortsOfOtherPodsAreReported(t *testing.T) {
	ctx := context.Background()
	c := twoNodes(t)
	c.start()
	pods := c.kube.CoreV1().Pods("apps")
	must[*v1.Pod](c)(pods.Create(ctx, foreignPod("nginx-1", "n1", 80), metav1.CreateOptions{}))
	must[*v1.Pod](c)(pods.Create(ctx, foreignPod("nginx-2", "n2", 80), metav1.CreateOptions{}))
	c.create(service("web"))
	c.losesAllPorts("web", "80/TCP", "apps/nginx-1")
	if err := pods.Delete(ctx, "nginx-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.proxy("web", "n1", ready)
	c.publishes("web", "203.0.113.1")
	c.eventually("a warning names the other node", func() bool {
		return c.hasEvent("Warning ProxyUnschedulable web", "node n2", "apps/nginx-2", "80/TCP")
	})
	if err := pods.Delete(ctx, "nginx-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.proxy("web", "n2", ready)
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestALaterPodDoesNotTakeAServedPort(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	for _, node := range []string{"n1", "n2"} {
		must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(t.Context(), foreignPod("late-"+node, node, 80), metav1.CreateOptions{}))
	}
	c.create(service("later", tcp(81))) // It is reconciled after the pods are in the cache.
	c.proxy("later", "n1", ready)
	c.publishes("later", "203.0.113.1")
	c.edit("web", withAnnotation(options.MaxNodes, "1"))
	c.publishes("web", "203.0.113.1")
	if got := c.warnings("web"); len(got) != 0 || !c.firewallAllows("web") {
		t.Errorf("warnings %q, allowed by the firewall: %v", got, c.firewallAllows("web"))
	}
}

func TestAServiceThatChangesToClusterIPLosesOurCondition(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("old", createdAt(1)))
	c.create(service("young", createdAt(2), func(svc *v1.Service) {
		svc.Status.Conditions = []metav1.Condition{{Type: "example.com/Theirs", Status: metav1.ConditionTrue}}
	}))
	c.losesAllPorts("young")
	c.edit("young", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
	c.eventually("the finalizer is removed", func() bool { return len(c.service("young").Finalizers) == 0 })
	if got := c.service("young").Status.Conditions; len(got) != 1 || got[0].Type != "example.com/Theirs" {
		t.Errorf("conditions: %v", got)
	}
}

func TestAConflictIsWrittenOnce(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("old", createdAt(1)))
	c.create(service("young", createdAt(2)))
	c.losesAllPorts("young")
	before := c.service("young")
	c.proxy("old", "n2", notReady)
	c.publishes("old", "203.0.113.1")
	stop()
	c.start()
	c.serve(service("other", tcp(81)))
	if diff := cmp.Diff(before.Status, c.service("young").Status); diff != "" {
		t.Errorf("the status changed (-before +after):\n%s", diff)
	}
}
