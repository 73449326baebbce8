package provider

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicecontroller "k8s.io/cloud-provider/controllers/service"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

func (c *cluster) editNode(name string, change func(*v1.Node)) {
	c.Helper()
	nodes := c.kube.CoreV1().Nodes()
	n := must[*v1.Node](c)(nodes.Get(c.Context(), name, metav1.GetOptions{})).DeepCopy()
	change(n)
	must[*v1.Node](c)(nodes.Update(c.Context(), n, metav1.UpdateOptions{}))
}

// lookedAt waits until a Service has been ensured to the end.
func (c *cluster) lookedAt(name string) {
	c.Helper()
	for _, seconds := range []string{"11", "12"} {
		c.edit(name, withAnnotation(options.DrainSeconds, seconds))
		c.eventually("the config follows", func() bool { return strings.Contains(fmt.Sprint(c.configMap(name).Data), seconds) })
	}
}

// A taint that keeps new pods off a node leaves those that run.
func TestANodeServesUntilItsProxyEnds(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.editNode("n2", taint("dedicated"))
	c.settle()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.editNode("n1", taint(servicecontroller.ToBeDeletedTaint))
	c.publishes("web", "203.0.113.2")
	c.editNode("n2", taint(servicecontroller.ToBeDeletedTaint))
	c.eventually("the controller sees no node", func() bool { return c.hasEvent("UnAvailableLoadBalancer web:") })
	c.lookedAt("web")
	c.publishes("web", "203.0.113.2")
	if !c.isOpen("web") {
		t.Error("the firewall was closed before the last proxy ended")
	}
	if err := c.kube.CoreV1().Pods(system).Delete(t.Context(), plan.Name(service("web"))+"-n2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.publishes("web", "203.0.113.1")
}
