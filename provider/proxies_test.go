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

// grown is a Service that two nodes serve, with a proxy of each set for its two
// ports.
func (c *cluster) grown(name string) {
	c.Helper()
	c.serve(service(name))
	c.edit(name, tcp(80, 443))
	c.proxyOf(1, name, "n1", ready)
	c.proxyOf(1, name, "n2", ready)
	c.settle()
}

func TestAPortThatComesLeavesTheProxiesAndTheAddresses(t *testing.T) {
	c := twoNodes(t)
	var seen []int
	c.onStatus = func(svc *v1.Service) {
		if svc.Name == "web" {
			seen = append(seen, len(svc.Status.LoadBalancer.Ingress))
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
		t.Errorf("the first proxies are replaced (-before +after):\n%s", diff)
	}
	if !slices.IsSorted(seen) {
		t.Errorf("addresses were taken away: %v were shown", seen)
	}
	c.proxyOf(1, "web", "n1", func(pod *v1.Pod) { pod.CreationTimestamp.Time = time.Now().Add(time.Hour); notReady(pod) })
	c.publishes("web", "203.0.113.2")
	c.edit("web", tcp(80, 443, 8443))
	c.serves("web", "80/TCP", "443/TCP", "8443/TCP")
}

func TestANodeWithoutTheSecondProxyLeavesWhenPatienceEnds(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.edit("web", tcp(80, 443))
	c.proxyOf(1, "web", "n2", ready)
	c.eventually("the second set is there", func() bool { return c.daemonSetOf(1, "web") != nil })
	ds := c.daemonSetOf(1, "web")
	ds.CreationTimestamp, ds.Labels["of"] = metav1.Time{Time: time.Now().Add(-time.Hour)}, "old"
	must[*appsv1.DaemonSet](c)(c.kube.AppsV1().DaemonSets(system).Update(context.Background(), ds, metav1.UpdateOptions{}))
	c.publishes("web", "203.0.113.2")
}

func TestASetWithoutPortsGoes(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.grown("web")
	before := c.daemonSet("web")
	c.edit("web", tcp(80))
	c.eventually("the second set is gone", func() bool { return c.daemonSetOf(1, "web") == nil && c.configMapOf(1, "web") == nil })
	c.settle()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	if diff := cmp.Diff(before, c.daemonSet("web")); diff != "" {
		t.Errorf("the first proxies are replaced (-before +after):\n%s", diff)
	}
}

func TestTheSetThatLosesAPortTakesTheNewOne(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web", tcp(80, 81)))
	c.edit("web", tcp(443, 80))
	c.serves("web", "80/TCP", "443/TCP")
	c.settle()
	if c.daemonSetOf(1, "web") != nil {
		t.Error("there is a second set, although the first is replaced anyway")
	}
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestAServiceOfTwoSetsGoesAltogether(t *testing.T) {
	for name, end := range map[string]func(c *cluster){
		"it is deleted": func(c *cluster) {
			c.delete("web")
			c.eventually("it is gone", func() bool { return c.isGone("web") })
		},
		"it is no load balancer any more": func(c *cluster) {
			c.edit("web", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
			c.eventually("its finalizers are gone", func() bool { return len(c.service("web").Finalizers) == 0 })
		},
		"it has no port of its own any more": func(c *cluster) {
			c.edit("web", tcp(22))
			c.losesAllPorts("web", "reserved")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.config.LoadBalancer.ReservedPorts = []string{"22"}
			c.start()
			c.grown("web")
			end(c)
			c.nothingLeft("web")
		})
	}
}

func TestAServiceOfTwoSetsChangesItsDatapath(t *testing.T) {
	c := twoNatted(t)
	c.start()
	c.grown("web")
	c.edit("web", by(options.DatapathDirect))
	c.mirrors("web", "10.0.0.1", "10.0.0.2")
	c.eventually("the proxies are gone", func() bool { return c.daemonSet("web") == nil && c.daemonSetOf(1, "web") == nil })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.edit("web", by(options.DatapathProxy))
	c.serves("web", "80/TCP", "443/TCP")
	if c.daemonSetOf(1, "web") != nil {
		t.Error("there are two sets again")
	}
}

func TestNothingIsWrittenForTwoSetsAfterARestart(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.grown("web")
	stop()
	first, second, svc := c.daemonSet("web"), c.daemonSetOf(1, "web"), c.service("web")
	c.kube.ClearActions()
	c.start()
	c.settle()
	want := []string{ // All of them for the Service that settles.
		"create services", "patch services/status", "create configmaps", "create daemonsets", "create pods", "create pods",
	}
	if got := c.writes(); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("written: %v", got)
	}
	if diff := cmp.Diff([]any{first, second, svc}, []any{c.daemonSet("web"), c.daemonSetOf(1, "web"), c.service("web")}); diff != "" {
		t.Errorf("a restart changed it (-before +after):\n%s", diff)
	}
}

func TestTwoSetsAreReplacedOneAfterTheOther(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.grown("web")
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
		t.Errorf("the second set has image %s while the first is being replaced", got)
	}
	rolledOut(2)
	c.eventually("the second set has it too", func() bool { return image(1) == "proxy:2" })
}

func TestAPortThatComesIsOpenedAfterItsProxiesAreWanted(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	early, opened := false, make(chan struct{}, 100)
	c.firewall.FailWith(func(method string, owner firewall.Owner) error {
		if method == "Ensure" && owner.Service.Name == "web" {
			early = early || c.daemonSetOf(1, "web") == nil
			opened <- struct{}{}
		}
		return nil
	})
	c.edit("web", tcp(80, 443))
	<-opened
	c.firewall.FailWith(nil)
	if early {
		t.Error("the port was opened before there was a DaemonSet for it")
	}
}
