package provider

import (
	"context"
	"errors"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// refusePods makes the API server refuse to create pods by dry run.
func (c *cluster) refusePods(cause string) {
	c.kube.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		dryRun := len(action.(clienttesting.CreateActionImpl).CreateOptions.DryRun) > 0
		return dryRun, nil, apierrors.NewForbidden(action.GetResource().GroupResource(), "x", errors.New(cause))
	})
}

// refuseDaemonSets makes the API server refuse to create and update DaemonSets.
func (c *cluster) refuseDaemonSets(cause string) {
	for _, verb := range []string{"create", "update"} {
		c.kube.PrependReactor(verb, "daemonsets", func(action clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(action.GetResource().GroupResource(), "x", errors.New(cause))
		})
	}
}

func TestAServiceWhoseChangedProxiesAreRefusedKeepsItsOwn(t *testing.T) {
	for name, refuse := range map[string]func(c *cluster, cause string){
		"pods are refused":       (*cluster).refusePods,
		"DaemonSets are refused": (*cluster).refuseDaemonSets,
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("web", tcp(80, 81)))
			before := c.daemonSet("web")
			c.settle()
			refuse(c, "no host ports here")
			c.edit("web", func(svc *v1.Service) { tcp(80, 82)(svc); withAnnotation(options.PriorityClassName, "x")(svc) })
			c.eventually("a warning", func() bool {
				return c.hasEvent("Warning ProxyNotCreated web", "no host ports here", "keeps the proxies")
			})
			if after := c.daemonSet("web"); after.ResourceVersion != before.ResourceVersion {
				t.Error("the DaemonSet was changed")
			}
			c.eventually("the firewall allows what is served", func() bool {
				return c.allowsPort("web", 80) && !c.allowsPort("web", 81) && c.allowsPort("web", 82) == c.hasPort("web", 82)
			})
			// What turns bad leaves the status nevertheless.
			c.proxy("web", "n1", func(pod *v1.Pod) { pod.Spec.Containers = before.Spec.Template.Spec.Containers; notReady(pod) })
			c.publishes("web", "203.0.113.2")
		})
	}
}

func TestMissingProxiesAreExplainedWhenTheDaemonSetsStatusShowsThem(t *testing.T) {
	c := twoNodes(t)
	c.refusePods("maximum cpu usage per Container is 250m")
	c.start()
	c.create(service("web"))
	c.eventually("the DaemonSet exists", func() bool { return c.daemonSet("web") != nil })
	ds := c.daemonSet("web")
	ds.Status.DesiredNumberScheduled = 2
	must[*appsv1.DaemonSet](c)(c.kube.AppsV1().DaemonSets(system).UpdateStatus(context.Background(), ds, metav1.UpdateOptions{}))
	c.eventually("a warning", func() bool {
		return c.hasEvent("Warning ProxyNotCreated web", "250m", "2 of 2 nodes have none")
	})
}
