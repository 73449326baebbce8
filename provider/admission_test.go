package provider

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/internal/apitest"
)

func TestWhatAdmissionMakesOfProxiesIsReportedAndNotWrittenAtEverySync(t *testing.T) {
	c := twoNodes(t)
	apitest.Admit(c.kube, "daemonsets", func(obj runtime.Object) {
		obj.(*appsv1.DaemonSet).Spec.Template.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("20m")
	})
	c.start()
	c.serve(service("web"))
	c.eventually("a warning names the field", func() bool {
		return c.hasEvent("Warning ObjectOverridden web", "DaemonSet hostport-system/hostport-web-", "resources.requests.cpu", `"20m" instead of "10m"`)
	})
	c.settle()
	c.kube.ClearActions()
	for range 5 {
		c.balancer.services.Enqueue(nameOf(service("web")))
		c.settle()
	}
	for _, action := range c.kube.Actions() {
		if action.Matches("update", "daemonsets") && action.(clienttesting.UpdateAction).GetObject().(*appsv1.DaemonSet).Name == c.daemonSet("web").Name {
			t.Errorf("the DaemonSet was updated: %v", c.writes())
		}
	}
	if got := c.warnings("web"); len(got) != 1 {
		t.Errorf("warnings: %q", got)
	}
	c.edit("web", tcp(443))
	c.serves("web", "443/TCP")
}
