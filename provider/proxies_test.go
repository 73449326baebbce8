package provider

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// serveWithTwoSets creates a Service with two ports, each in its own proxy set, and waits until two
// nodes serve both.
func (c *cluster) serveWithTwoSets(name string) {
	c.Helper()
	c.serve(service(name))
	c.edit(name, tcp(80, 443))
	c.proxyOf(1, name, "n1", ready)
	c.proxyOf(1, name, "n2", ready)
	c.settle()
}

func TestANewPortKeepsTheProxiesAndTheAddresses(t *testing.T) {
	c := twoNodes(t)
	var published []int
	c.onStatus = func(svc *v1.Service) {
		if svc.Name == "web" {
			published = append(published, len(svc.Status.LoadBalancer.Ingress))
		}
	}
	c.start()
	c.serve(service("web"))
	before := c.daemonSet("web")
	c.edit("web", tcp(80, 443))
	c.serves("web", "80/TCP", "443/TCP")
	c.proxyOf(1, "web", "n1", notReady)
	c.proxyOf(1, "web", "n1", ready)
	c.settle()
	c.proxyOf(1, "web", "n2", ready)
	c.settle()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	if diff := cmp.Diff(before, c.daemonSet("web")); diff != "" {
		t.Errorf("the first DaemonSet changed (-before +after):\n%s", diff)
	}
	if !slices.IsSorted(published) {
		t.Errorf("addresses were removed: the numbers of published addresses are %v", published)
	}
	c.proxyOf(1, "web", "n1", func(pod *v1.Pod) { pod.CreationTimestamp.Time = time.Now().Add(time.Hour); notReady(pod) })
	c.publishes("web", "203.0.113.2")
	c.edit("web", tcp(80, 443, 8443))
	c.serves("web", "80/TCP", "443/TCP", "8443/TCP")
}

func TestANodeWithoutItsSecondProxyIsRemovedAfterATimeout(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.edit("web", tcp(80, 443))
	c.proxyOf(1, "web", "n2", ready)
	c.eventually("the second set exists", func() bool { return c.daemonSetOf(1, "web") != nil })
	ds := c.daemonSetOf(1, "web")
	ds.CreationTimestamp, ds.Labels["of"] = metav1.Time{Time: time.Now().Add(-time.Hour)}, "old"
	must[*appsv1.DaemonSet](c)(c.kube.AppsV1().DaemonSets(system).Update(context.Background(), ds, metav1.UpdateOptions{}))
	c.publishes("web", "203.0.113.2")
}

func TestAProxySetWithoutPortsIsDeleted(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serveWithTwoSets("web")
	before := c.daemonSet("web")
	c.edit("web", tcp(80))
	c.eventually("the second set is deleted", func() bool { return c.daemonSetOf(1, "web") == nil && c.configMapOf(1, "web") == nil })
	c.settle()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	if diff := cmp.Diff(before, c.daemonSet("web")); diff != "" {
		t.Errorf("the first DaemonSet changed (-before +after):\n%s", diff)
	}
}

func TestAChangedPortMakesASecondProxySet(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web", tcp(80, 81)))
	c.edit("web", tcp(443, 80))
	c.serves("web", "80/TCP", "443/TCP")
	c.settle()
	if c.daemonSetOf(1, "web") == nil {
		t.Error("the proxies of the first set, which are replaced one by one, have the new port")
	}
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestBothProxySetsOfAServiceAreDeleted(t *testing.T) {
	for name, end := range map[string]func(c *cluster){
		"the Service is deleted": func(c *cluster) {
			c.delete("web")
			c.endProxies("web")
			c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
		},
		"the Service changes to type ClusterIP": func(c *cluster) {
			c.edit("web", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
			c.endProxies("web")
			c.eventually("its finalizers are removed", func() bool { return len(c.service("web").Finalizers) == 0 })
		},
		"the Service has only a reserved port": func(c *cluster) {
			c.edit("web", tcp(22))
			c.losesAllPorts("web", "reserved")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.config.LoadBalancer.ReservedPorts = []string{"22"}
			c.start()
			c.serveWithTwoSets("web")
			end(c)
			c.wantNoResources("web")
		})
	}
}

func TestAServiceWithTwoProxySetsCutsOverToDirectAndBack(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveWithTwoSets("web")
	c.edit("web", withDatapath(options.DatapathDirect))
	c.mirrorShows("web", "10.0.0.1", "10.0.0.2")
	c.eventually("the proxies are deleted", func() bool { return c.daemonSet("web") == nil && c.daemonSetOf(1, "web") == nil })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.edit("web", withDatapath(options.DatapathProxy))
	c.serves("web", "80/TCP", "443/TCP")
	if c.daemonSetOf(1, "web") != nil {
		t.Error("there is a second set")
	}
}

func TestNothingIsWrittenForTwoProxySetsAfterARestart(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serveWithTwoSets("web")
	stop()
	first, second, svc := c.daemonSet("web"), c.daemonSetOf(1, "web"), c.service("web")
	c.kube.ClearActions()
	c.start()
	c.settle()
	want := []string{ // All for the Service that settle creates.
		"create services", "patch services/status", "create configmaps", "create daemonsets", "create pods", "create pods",
	}
	if got := c.writes(); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("writes: %v", got)
	}
	if diff := cmp.Diff([]any{first, second, svc}, []any{c.daemonSet("web"), c.daemonSetOf(1, "web"), c.service("web")}); diff != "" {
		t.Errorf("objects changed after a restart (-before +after):\n%s", diff)
	}
}

func TestTwoProxySetsAreRolledOutOneAfterTheOther(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serveWithTwoSets("web")
	stop()
	rolledOut := func(updated int32) {
		ds := c.daemonSet("web")
		ds.Status.DesiredNumberScheduled, ds.Status.UpdatedNumberScheduled = 2, updated
		must[*appsv1.DaemonSet](c)(c.kube.AppsV1().DaemonSets(system).UpdateStatus(context.Background(), ds, metav1.UpdateOptions{}))
	}
	image := func(set int) string { return c.daemonSetOf(set, "web").Spec.Template.Spec.Containers[0].Image }
	rolledOut(1)
	c.config.LoadBalancer.ProxyImage = "proxy:2"
	c.start()
	c.eventually("the first set has the new image", func() bool { return image(0) == "proxy:2" })
	c.settle()
	if got := image(1); got != "proxy:1" {
		t.Errorf("the second set has image %s while the first is being rolled out", got)
	}
	rolledOut(2)
	c.eventually("the second set has the new image", func() bool { return image(1) == "proxy:2" })
}

func TestANewPortIsOpenedAfterItsDaemonSetIsCreated(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	early, ensured := false, make(chan struct{}, 100)
	c.firewall.FailWith(func(method string, owner firewall.Owner) error {
		if method == "Ensure" && owner.Service.Name == "web" {
			early = early || c.daemonSetOf(1, "web") == nil
			ensured <- struct{}{}
		}
		return nil
	})
	c.edit("web", tcp(80, 443))
	<-ensured
	c.firewall.FailWith(nil)
	if early {
		t.Error("the firewall allowed the port before its DaemonSet existed")
	}
}

func TestAProxyThatHasEndedIsReportedAndHoldsNothingUp(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.proxy("web", "n1", func(pod *v1.Pod) {
		ready(pod) // Whoever sets the phase may leave the conditions as they were.
		pod.Status.Phase, pod.Status.Reason = v1.PodFailed, "NodeShutdown"
	})
	c.publishes("web", "203.0.113.2")
	c.eventually("a warning", func() bool { return c.hasEvent("Warning ProxyNotRunning web", "node n1", "NodeShutdown") })
	c.removeProxy("web", "n2")
	c.delete("web")
	c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
}
