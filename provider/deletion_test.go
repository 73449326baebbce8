package provider

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

// maxBlockingDeletes has the value of the constant in package operations.
const maxBlockingDeletes = 3

func TestADeletedServiceHasNoResources(t *testing.T) {
	for name, remove := range map[string]func(c *cluster){
		"a Service": func(c *cluster) { c.delete("web") },
		"a Service whose standard finalizer was removed": func(c *cluster) {
			c.edit("web", deletedWith(view.Finalizer))
		},
		"a Service whose own finalizer was removed": func(c *cluster) {
			c.edit("web", deletedWith(servicehelper.LoadBalancerCleanupFinalizer))
		},
		"a Service that is deleted together with its DaemonSet": func(c *cluster) {
			if err := c.kube.AppsV1().DaemonSets(system).Delete(context.Background(), plan.Name(service("web")), metav1.DeleteOptions{}); err != nil {
				c.Fatal(err)
			}
			c.delete("web")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("web"))
			remove(c)
			c.endProxies("web")
			c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
			c.settle()
			c.wantNoResources("web")
			if c.hasEvent("Warning", "web:") {
				t.Errorf("warnings: %v", c.events())
			}
		})
	}
}

// deletedWith marks a Service as deleted, with these finalizers only.
func deletedWith(finalizers ...string) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.DeletionTimestamp, svc.Finalizers = &metav1.Time{Time: time.Now()}, finalizers
	}
}

func TestADeletedServiceWithOnlyForeignFinalizersIsIgnored(t *testing.T) {
	const foreign = "example.com/cleanup"
	c := twoNodes(t)
	c.start()
	c.serve(service("web", func(svc *v1.Service) { svc.Finalizers = []string{foreign} }))
	c.delete("web")
	finalized := func() bool { return slices.Contains(c.service("web").Finalizers, view.Finalizer) }
	c.endProxies("web")
	c.eventually("our finalizer is removed", func() bool { return !finalized() })
	c.edit("web", withAnnotation("example.com/note", "changed"))
	c.settle()
	if c.wantNoResources("web"); finalized() || c.hasEvent("Warning", "web:") {
		t.Errorf("finalizers %v, events %v", c.service("web").Finalizers, c.events())
	}
}

func TestAServiceDeletedDuringDowntimeIsCleanedUp(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web", ofClass(config.LoadBalancerClass)))
	stop()
	// Another cloud-controller-manager removes the standard finalizer.
	c.edit("web", func(svc *v1.Service) { svc.Finalizers = []string{view.Finalizer} })
	c.delete("web")
	c.start()
	c.endProxies("web")
	c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
	c.wantNoResources("web")
}

func TestAServiceDeletedDespiteItsFinalizersIsCleanedUp(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	gvr := v1.SchemeGroupVersion.WithResource("services")
	if err := c.kube.Tracker().Delete(gvr, "default", "web"); err != nil {
		t.Fatal(err)
	}
	c.eventually("all its resources are deleted", func() bool {
		return c.daemonSet("web") == nil && c.configMap("web") == nil && !c.firewallAllows("web")
	})
}

func TestAServiceThatChangesToClusterIPIsCleanedUp(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web", ofClass(config.LoadBalancerClass)))
	c.edit("web", func(svc *v1.Service) {
		svc.Spec.Type, svc.Spec.LoadBalancerClass = v1.ServiceTypeClusterIP, nil
		svc.Status = v1.ServiceStatus{}
	})
	c.endProxies("web")
	c.eventually("the finalizers are removed", func() bool { return len(c.service("web").Finalizers) == 0 })
	c.wantNoResources("web")
	c.edit("web", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeLoadBalancer })
	c.proxy("web", "n1", ready)
	c.proxy("web", "n2", ready)
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestAServiceThatChangesToAnotherClassIsReleased(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web"))
	// The class changes by way of another type, while no controller runs.
	stop()
	theirs := v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: "192.0.2.1"}}}
	c.edit("web", func(svc *v1.Service) {
		ofClass("example.com/other")(svc)
		svc.Status.LoadBalancer = theirs
	})
	c.start()
	c.endProxies("web")
	c.eventually("our finalizer is removed", func() bool { return !slices.Contains(c.service("web").Finalizers, view.Finalizer) })
	c.wantNoResources("web")
	got := c.service("web")
	if !slices.Contains(got.Finalizers, servicehelper.LoadBalancerCleanupFinalizer) || !cmp.Equal(theirs, got.Status.LoadBalancer) {
		t.Errorf("the finalizer or status of the new owner changed: %v, %v", got.Finalizers, got.Status.LoadBalancer)
	}
}

func TestAServiceStaysUntilItsLastProxyHasEnded(t *testing.T) {
	finalized := func(c *cluster) bool { return slices.Contains(c.service("web").Finalizers, view.Finalizer) }
	for name, tt := range map[string]struct {
		end      func(c *cluster)
		released func(c *cluster) bool
	}{
		"when it is deleted": {func(c *cluster) { c.delete("web") }, func(c *cluster) bool { return c.isGone("web") }},
		"when it changes to type ClusterIP": {func(c *cluster) {
			c.edit("web", func(svc *v1.Service) { svc.Spec.Type, svc.Status = v1.ServiceTypeClusterIP, v1.ServiceStatus{} })
		}, func(c *cluster) bool { return !finalized(c) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("web"))
			tt.end(c)
			c.publishes("web") // Clients must not wait.
			c.eventually("its proxies are deleted", func() bool { return c.daemonSet("web") == nil })
			c.removeProxy("web", "n1")
			c.settle()
			if c.firewallAllows("web") || !finalized(c) {
				t.Errorf("allowed by the firewall: %t, finalizers: %v", c.firewallAllows("web"), c.service("web").Finalizers)
			}
			c.removeProxy("web", "n2")
			c.eventually("the Service is released", func() bool { return tt.released(c) })
			if c.hasEvent("Warning", "web:") {
				t.Errorf("warnings: %v", c.events())
			}
		})
	}
}

func TestProxiesOnDeadNodesDoNotHoldAService(t *testing.T) {
	for name, die := range map[string]func(c *cluster){
		"nodes that are not Ready": func(c *cluster) {
			c.readiness("n1", v1.ConditionUnknown)
			c.readiness("n2", v1.ConditionFalse)
		},
		"nodes that are deleted": func(c *cluster) {
			for _, node := range []string{"n1", "n2"} {
				if err := c.kube.CoreV1().Nodes().Delete(c.Context(), node, metav1.DeleteOptions{}); err != nil {
					c.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("web"))
			c.delete("web")
			c.eventually("its proxies are deleted", func() bool { return c.daemonSet("web") == nil })
			die(c)
			c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
		})
	}
}

func TestARecreatedServiceDoesNotWaitForEarlierProxies(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	// Somebody removes the finalizers.
	if err := c.kube.Tracker().Delete(v1.SchemeGroupVersion.WithResource("services"), "default", "web"); err != nil {
		t.Fatal(err)
	}
	c.create(service("web", func(svc *v1.Service) { svc.UID = "another-uid" }))
	c.eventually("the new Service is ensured", func() bool {
		list := must[*appsv1.DaemonSetList](c)(c.kube.AppsV1().DaemonSets(system).List(t.Context(), metav1.ListOptions{LabelSelector: plan.LabelServiceUID + "=another-uid"}))
		return len(list.Items) == 1
	})
}

func TestSlowDeletionsDoNotBlockOtherServices(t *testing.T) {
	c := twoNodes(t)
	var names []string
	for i := range 2 * maxBlockingDeletes {
		names = append(names, fmt.Sprint("web", i))
	}
	c.startWith(maxBlockingDeletes + 1)
	for i, name := range names {
		c.serve(service(name, tcp(int32(8000+i))))
	}
	unblock := make(chan struct{})
	var deletions atomic.Int32
	c.firewall.FailWith(func(method string, _ firewall.Owner) error {
		if method == "Delete" {
			deletions.Add(1)
			<-unblock
		}
		return nil
	})
	for _, name := range names {
		c.delete(name)
	}
	c.eventually("all rules are being deleted", func() bool { return int(deletions.Load()) == len(names) })
	c.serve(service("other", tcp(9000)))
	c.proxy("other", "n2", notReady)
	c.publishes("other", "203.0.113.1")
	for _, name := range names {
		if len(c.service(name).Finalizers) == 0 || c.daemonSet(name) == nil {
			t.Errorf("Service %s is released while the firewall may allow its ports", name)
		}
	}
	close(unblock)
	for _, name := range names {
		c.endProxies(name)
		c.eventually(name+" is deleted", func() bool { return c.isGone(name) })
		c.wantNoResources(name)
	}
	if c.hasEvent("Warning") {
		t.Errorf("warnings: %v", c.events())
	}
}

func (c *cluster) isGone(name string) bool {
	_, err := c.kube.CoreV1().Services("default").Get(context.Background(), name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}
