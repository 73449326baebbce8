package provider

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// requests lists the requests of hostport-ccm, but those for events and informers.
func (c *cluster) requests() []string {
	var list []string
	for _, action := range c.ccm.Actions() {
		resource := action.GetResource().Resource
		if action.GetVerb() == "watch" || resource == "events" {
			continue
		}
		if sub := action.GetSubresource(); sub != "" {
			resource += "/" + sub
		}
		list = append(list, action.GetVerb()+" "+resource)
	}
	return list
}

// countRequests counts the requests other than patches of statuses.
func (c *cluster) countRequests() map[string]int {
	counts := map[string]int{}
	for _, request := range c.requests() {
		if request != finalizer {
			counts[request]++
		}
	}
	return counts
}

// simulateDaemonSets makes the API server act as the DaemonSet controller and kubelets do on these nodes. A
// DaemonSet has ready pods at once, and loses them when it is deleted.
func (c *cluster) simulateDaemonSets(nodes ...string) {
	pods := v1.SchemeGroupVersion.WithResource("pods")
	tracker := c.kube.Tracker()
	c.kube.PrependReactor("create", "daemonsets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		ds := action.(clienttesting.CreateAction).GetObject().(*appsv1.DaemonSet)
		n := int32(len(nodes))
		ds.Generation, ds.Status = 1, appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: n, CurrentNumberScheduled: n, UpdatedNumberScheduled: n}
		for _, node := range nodes {
			if err := tracker.Create(pods, podOf(ds, node), system); err != nil {
				return true, nil, err
			}
		}
		return false, nil, nil
	})
	c.kube.PrependReactor("delete", "daemonsets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		for _, node := range nodes {
			_ = tracker.Delete(pods, system, action.(clienttesting.DeleteAction).GetName()+"-"+node) // It may be deleted already.
		}
		return false, nil, nil
	})
}

// finalizer is the request that adds or removes finalizers: the service controller uses the status for it.
const finalizer = "patch services/status"

// withoutRepeatedPatches returns requests without those patches that follow another: while a cache is stale,
// the same may be written again, and the status of a mirror is written beside that of its Service.
func withoutRepeatedPatches(requests []string) []string {
	return slices.CompactFunc(requests, func(a, b string) bool { return a == b && a == finalizer })
}

// wantInATry runs try, which returns the difference from the requests wanted, in subtests until there is none, at
// most five times. While a cache is stale, as on a busy machine, what was just written is read and written again.
func wantInATry(t *testing.T, what string, try func(t *testing.T) (diff string)) {
	t.Helper()
	var diff string
	for i := range 5 {
		t.Run(fmt.Sprint("try ", i+1), func(t *testing.T) { diff = try(t) })
		if diff == "" || t.Failed() {
			return
		}
	}
	t.Errorf("%s, in every try (-want +got):\n%s", what, diff)
}

func TestAServiceTakesFewRequests(t *testing.T) {
	for name, tc := range map[string]struct {
		service          *v1.Service
		published        []string
		created, deleted []string
	}{
		"proxy": {
			service("web", tcp(80, 443)), []string{"203.0.113.1", "203.0.113.2"},
			[]string{finalizer, "create configmaps", "create daemonsets", "patch services/status"},
			[]string{"patch services/status", "delete daemonsets", "delete configmaps", finalizer},
		},
		"direct, with a mirror": {
			service("web", tcp(80, 443), withDatapath(options.DatapathDirect)), []string{"203.0.113.1", "203.0.113.2"},
			[]string{finalizer, "create services", "patch services/status"},
			[]string{"patch services/status", "delete services", finalizer},
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantInATry(t, "requests for a Service that is created, and deleted", func(t *testing.T) string {
				c := newCluster(t, translatedNode(1), translatedNode(2))
				c.config.LoadBalancer.KubeProxyMode, c.config.LoadBalancer.Datapath = config.KubeProxyIPTables, options.DatapathProxy
				c.simulateDaemonSets("n1", "n2")
				c.start()
				c.ccm.ClearActions()
				c.create(tc.service.DeepCopy())
				c.publishes("web", tc.published...)
				time.Sleep(300 * time.Millisecond) // More requests may follow.
				diff := cmp.Diff(tc.created, withoutRepeatedPatches(c.requests()))
				c.ccm.ClearActions()
				c.delete("web")
				c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
				time.Sleep(300 * time.Millisecond) // More requests may follow.
				diff += cmp.Diff(tc.deleted, withoutRepeatedPatches(c.requests()))
				c.wantNoResources("web")
				return diff
			})
		})
	}
}

// createPublished creates Services, waits until they are published at the addresses, and returns their names.
func (c *cluster) createPublished(number int, addresses ...string) (names []string) {
	for i := range number {
		names = append(names, fmt.Sprint("web", i))
		c.create(service(names[i], tcp(int32(80+i))))
	}
	for _, name := range names {
		c.publishes(name, addresses...)
	}
	return names
}

// A namespace that is deleted deletes all its Services at once.
func TestManyDeletedServicesTakeFewRequestsEach(t *testing.T) {
	const services = 10
	wantInATry(t, "requests besides patches", func(t *testing.T) string {
		c := newCluster(t, node("n1", "203.0.113.1"), node("n2", "203.0.113.2"))
		c.simulateDaemonSets("n1", "n2")
		c.startWith(10)
		names := c.createPublished(services, "203.0.113.1", "203.0.113.2")
		c.ccm.ClearActions()
		for _, name := range names {
			c.delete(name)
		}
		c.eventually("all Services are deleted", func() bool { return !slices.ContainsFunc(names, func(name string) bool { return !c.isGone(name) }) })
		return cmp.Diff(map[string]int{"delete daemonsets": services, "delete configmaps": services}, c.countRequests())
	})
}

// While the kubelets are made to update the configs of many proxies, statuses go on.
func TestReloadsDoNotDelayStatuses(t *testing.T) {
	wantInATry(t, "requests of the client for statuses", editRangesOfManyServices)
}

// editRangesOfManyServices edits ten Services, has a node go down while no proxy can be reloaded yet, and returns
// the difference from the requests wanted.
func editRangesOfManyServices(t *testing.T) string {
	const services = 10
	c := newCluster(t, node("n1", "203.0.113.1"), node("n2", "203.0.113.2"))
	c.simulateDaemonSets("n1", "n2")
	slow := clientOf(c.kube)
	reloading := make(chan struct{})
	var reloads atomic.Int32
	slow.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		reloads.Add(1)
		<-reloading // A request that has to wait for its turn.
		return false, nil, nil
	})
	c.reload = slow
	c.startWith(10)
	names := c.createPublished(services, "203.0.113.1", "203.0.113.2")
	c.ccm.ClearActions()
	for _, name := range names {
		c.edit(name, func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} })
	}
	c.eventually("the first proxy is to be reloaded", func() bool { return reloads.Load() > 0 })
	c.editNode("n2", func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionUnknown })
	for _, name := range names {
		c.publishes(name, "203.0.113.1")
	}
	diff := cmp.Diff(map[string]int{"update configmaps": services}, c.countRequests())
	if n := reloads.Load(); n != 1 {
		t.Errorf("%d requests to reload at a time", n)
	}
	close(reloading)
	c.eventually("all proxies are reloaded", func() bool { return reloads.Load() >= 2*services })
	return diff
}
