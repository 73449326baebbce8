package provider

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

// maxBlockingDeletes is that of package operations.
const maxBlockingDeletes = 3

func TestNothingIsLeftAfterDeletion(t *testing.T) {
	for name, remove := range map[string]func(c *cluster){
		"of an ordinary Service": func(c *cluster) { c.delete("web") },
		"of one whose standard finalizer someone stripped": func(c *cluster) {
			c.edit("web", deletedWith(view.Finalizer))
		},
		"of one whose own finalizer someone stripped": func(c *cluster) {
			c.edit("web", deletedWith(servicehelper.LoadBalancerCleanupFinalizer))
		},
		"of one deleted together with its DaemonSet": func(c *cluster) {
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
			c.eventually("the Service is gone", func() bool { return c.isGone("web") })
			c.settle()
			c.nothingLeft("web")
			if c.hasEvent("Warning", "web:") {
				t.Errorf("warnings: %v", c.events())
			}
		})
	}
}

// deletedWith makes a Service one that is being deleted and waits for these
// finalizers only.
func deletedWith(finalizers ...string) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.DeletionTimestamp, svc.Finalizers = &metav1.Time{Time: time.Now()}, finalizers
	}
}

func TestAServiceThatWaitsForOthersOnlyIsLeftAlone(t *testing.T) {
	const theirs = "example.com/cleanup"
	c := twoNodes(t)
	c.start()
	c.serve(service("web", func(svc *v1.Service) { svc.Finalizers = []string{theirs} }))
	c.delete("web")
	ours := func() bool { return slices.Contains(c.service("web").Finalizers, view.Finalizer) }
	c.eventually("it is let go", func() bool { return !ours() })
	c.edit("web", withAnnotation("example.com/note", "changed"))
	c.settle()
	if c.nothingLeft("web"); ours() || c.hasEvent("Warning", "web:") {
		t.Errorf("finalizers %v, events %v", c.service("web").Finalizers, c.events())
	}
}

func TestAServiceDeletedWhileWeWereDownIsCleanedUp(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web", ofClass(config.LoadBalancerClass)))
	stop()
	// The other cloud-controller-manager strips the standard finalizer.
	c.edit("web", func(svc *v1.Service) { svc.Finalizers = []string{view.Finalizer} })
	c.delete("web")
	c.start()
	c.eventually("the Service is gone", func() bool { return c.isGone("web") })
	c.nothingLeft("web")
}

func TestAServiceRemovedByForceIsCleanedUp(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	gvr := v1.SchemeGroupVersion.WithResource("services")
	if err := c.kube.Tracker().Delete(gvr, "default", "web"); err != nil {
		t.Fatal(err)
	}
	c.eventually("nothing is left", func() bool {
		return c.daemonSet("web") == nil && c.configMap("web") == nil && !c.isOpen("web")
	})
}

func TestAServiceThatLeavesTheTypeIsCleanedUp(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web", ofClass(config.LoadBalancerClass)))
	c.edit("web", func(svc *v1.Service) {
		svc.Spec.Type, svc.Spec.LoadBalancerClass = v1.ServiceTypeClusterIP, nil
		svc.Status = v1.ServiceStatus{}
	})
	c.eventually("the finalizers are gone", func() bool { return len(c.service("web").Finalizers) == 0 })
	c.nothingLeft("web")
	c.edit("web", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeLoadBalancer })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestAServiceThatBecomesSomeoneElsesIsLetGo(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web"))
	stop() // Type and class change in two steps while we do not look.
	theirs := v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: "192.0.2.1"}}}
	c.edit("web", func(svc *v1.Service) {
		ofClass("example.com/other")(svc)
		svc.Status.LoadBalancer = theirs
	})
	c.start()
	c.eventually("our finalizer is gone", func() bool { return !slices.Contains(c.service("web").Finalizers, view.Finalizer) })
	c.nothingLeft("web")
	got := c.service("web")
	if !slices.Contains(got.Finalizers, servicehelper.LoadBalancerCleanupFinalizer) || !cmp.Equal(theirs, got.Status.LoadBalancer) {
		t.Errorf("the new owner's finalizer or status was touched: %v, %v", got.Finalizers, got.Status.LoadBalancer)
	}
}

func TestDeletionsThatTakeTheirTimeStallNobodyElse(t *testing.T) {
	c := twoNodes(t)
	var names []string
	for i := range 2 * maxBlockingDeletes {
		names = append(names, fmt.Sprint("web", i))
	}
	c.startWith(maxBlockingDeletes + 1)
	for i, name := range names {
		c.serve(service(name, tcp(int32(8000+i))))
	}
	answer := make(chan struct{})
	var asked atomic.Int32
	c.firewall.FailWith(func(method string, _ firewall.Owner) error {
		if method == "Delete" {
			asked.Add(1)
			<-answer
		}
		return nil
	})
	for _, name := range names {
		c.delete(name)
	}
	c.eventually("all are being closed", func() bool { return int(asked.Load()) == len(names) })
	c.serve(service("other", tcp(9000)))
	c.proxy("other", "n2", notReady)
	c.publishes("other", "203.0.113.1")
	for _, name := range names {
		if len(c.service(name).Finalizers) == 0 || c.daemonSet(name) == nil {
			t.Errorf("Service %s is let go while its ports may be open", name)
		}
	}
	close(answer)
	for _, name := range names {
		c.eventually(name+" is gone", func() bool { return c.isGone(name) })
		c.nothingLeft(name)
	}
	if c.hasEvent("Warning") {
		t.Errorf("warnings: %v", c.events())
	}
}
