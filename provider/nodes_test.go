package provider

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicecontroller "k8s.io/cloud-provider/controllers/service"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func (c *cluster) editNode(name string, change func(*v1.Node)) {
	c.Helper()
	nodes := c.kube.CoreV1().Nodes()
	n := must[*v1.Node](c)(nodes.Get(c.Context(), name, metav1.GetOptions{})).DeepCopy()
	change(n)
	must[*v1.Node](c)(nodes.Update(c.Context(), n, metav1.UpdateOptions{}))
}

// A NoSchedule taint excludes new pods, not running ones.
func TestATaintedNodeServesUntilItsProxyTerminates(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.editNode("n2", taint("dedicated"))
	c.settle()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.editNode("n1", taint(servicecontroller.ToBeDeletedTaint))
	c.publishes("web", "203.0.113.2")
	// The changed address shows that the taint was reconciled. All nodes that serve are
	// published, as all are about to be deleted.
	c.editNode("n2", func(n *v1.Node) {
		taint(servicecontroller.ToBeDeletedTaint)(n)
		n.Status.Addresses[0].Address = "203.0.113.22"
	})
	c.publishes("web", "203.0.113.1", "203.0.113.22")
	if !c.firewallAllows("web") {
		t.Error("the firewall rule was deleted before the last proxy terminated")
	}
	c.removeProxy("web", "n2")
	c.publishes("web", "203.0.113.1")
}

func TestAServiceWithoutNodesIsReportedOnceWithTheReasons(t *testing.T) {
	c := newCluster(t, node("n1", "203.0.113.1"), node("n2", "203.0.113.2"), node("n3", "203.0.113.3"))
	c.start()
	c.editNode("n1", func(n *v1.Node) { n.Labels[v1.LabelNodeExcludeBalancers] = "" })
	c.editNode("n2", func(n *v1.Node) { n.Labels["pool"] = "a"; taint("dedicated")(n) })
	c.create(service("web", withAnnotation(options.NodeSelector, "pool=a")))
	c.eventually("an event reports it", func() bool {
		return c.hasEvent("Warning ProxyUnschedulable web:", "of 3 nodes", "1 are excluded from load balancers", "1 do not match annotation "+options.NodeSelector, "1 have taints")
	})
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Create(t.Context(), node("n4", "203.0.113.4"), metav1.CreateOptions{}))
	c.edit("web", func(svc *v1.Service) { svc.Annotations[options.DrainSeconds] = "12" })
	c.eventually("the Service was reconciled again", func() bool { return strings.Contains(fmt.Sprint(c.configMap("web").Data), "12") })
	if n := c.countEvents("Warning", " web:"); n != 1 {
		t.Errorf("%d warnings: %v", n, c.events())
	}
	c.editNode("n2", func(n *v1.Node) { n.Spec.Taints = nil })
	c.proxy("web", "n2", ready)
	c.publishes("web", "203.0.113.2")
}
