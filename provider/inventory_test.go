package provider

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/component-base/metrics/testutil"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestAServiceHasOneState(t *testing.T) {
	hasAddress := func(svc *v1.Service) { svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "203.0.113.1"}} }
	lacksPorts := func(status metav1.ConditionStatus) func(*v1.Service) {
		return func(svc *v1.Service) {
			svc.Status.Conditions = []metav1.Condition{{Type: v1.LoadBalancerPortsError, Status: status}}
		}
	}
	isDeleted := func(svc *v1.Service) { svc.DeletionTimestamp = &metav1.Time{Time: time.Now()} }
	isFinalized := func(svc *v1.Service) { svc.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer} }
	isInternal := func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP }
	for name, c := range map[string]struct {
		svc     *v1.Service
		warning string
		want    serviceState
	}{
		"new":                             {service("a"), "", statePending},
		"with an address":                 {service("a", hasAddress), "", statePublished},
		"with an address and a warning":   {service("a", hasAddress), "UnknownAnnotation", statePublished},
		"without some of its ports":       {service("a", hasAddress, lacksPorts(metav1.ConditionTrue)), "PortConflict", stateConflict},
		"without all of its ports":        {service("a", lacksPorts(metav1.ConditionTrue)), "PortConflict", stateConflict},
		"after a conflict":                {service("a", hasAddress, lacksPorts(metav1.ConditionFalse)), "", statePublished},
		"refused":                         {service("a"), "InvalidConfiguration", stateRefused},
		"refused with an address":         {service("a", hasAddress), "InvalidConfiguration", stateRefused},
		"refused after a conflict":        {service("a", lacksPorts(metav1.ConditionTrue)), "InvalidConfiguration", stateRefused},
		"deleted":                         {service("a", isDeleted, isFinalized, hasAddress), "", stateDeleting},
		"deleted and cleaned up":          {service("a", isDeleted, hasAddress), "", ""},
		"changed to another type":         {service("a", isInternal, isFinalized), "", stateDeleting},
		"one that wants no load balancer": {service("a", isInternal), "", ""},
	} {
		got, ours := stateOf(c.svc, sets.New(c.warning))
		if ours != (c.want != "") || ours && got != c.want {
			t.Errorf("%s: %s, %t; want %q", name, got, ours, c.want)
		}
	}
}

func TestTheInventoryIsExposedByTheLeaderOnly(t *testing.T) {
	leads := false
	c := &collector{count: func() (inventory, bool) {
		draining := foreignPod("draining", "n1", 80)
		ready(draining)
		draining.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		serving := foreignPod("serving", "n1", 80)
		ready(serving)
		web := service("web", func(svc *v1.Service) {
			svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "203.0.113.1"}, {IP: "203.0.113.2"}}
		})
		warnings := map[types.UID]sets.Set[string]{"web-uid": sets.New("StatusHidden"), "new-uid": sets.New("StatusHidden", "ProxyNotReady")}
		return takeInventory([]*v1.Service{web, service("new")}, warnings, []*v1.Pod{draining, serving, foreignPod("starting", "n2", 80)}), leads
	}}
	if err := testutil.CustomCollectAndCompare(c, strings.NewReader("")); err != nil {
		t.Errorf("a replica that does not lead: %v", err)
	}
	leads, c = true, &collector{count: c.count}
	err := testutil.CustomCollectAndCompare(c, strings.NewReader(`
# HELP hostport_ccm_proxies [ALPHA] Proxies by state: ready, not_ready, or terminating, which drain their connections.
# TYPE hostport_ccm_proxies gauge
hostport_ccm_proxies{state="not_ready"} 1
hostport_ccm_proxies{state="ready"} 1
hostport_ccm_proxies{state="terminating"} 1
# HELP hostport_ccm_published_addresses [ALPHA] Addresses in the statuses of all Services that are served.
# TYPE hostport_ccm_published_addresses gauge
hostport_ccm_published_addresses 2
# HELP hostport_ccm_service_warnings [ALPHA] Services with a warning that holds now, by the reason of its event.
# TYPE hostport_ccm_service_warnings gauge
hostport_ccm_service_warnings{reason="ProxyNotReady"} 1
hostport_ccm_service_warnings{reason="StatusHidden"} 2
# HELP hostport_ccm_services [ALPHA] Services that are served, by state: published, pending (no address), conflict (another has some of its ports), refused (asks for what is not possible), or deleting.
# TYPE hostport_ccm_services gauge
hostport_ccm_services{state="conflict"} 0
hostport_ccm_services{state="deleting"} 0
hostport_ccm_services{state="pending"} 1
hostport_ccm_services{state="published"} 1
hostport_ccm_services{state="refused"} 0
`))
	if err != nil {
		t.Error(err)
	}
}

func TestTheInventoryFollowsServices(t *testing.T) {
	c := twoNodes(t)
	c.start()
	want := func(when string, addresses, warnings int, services map[serviceState]int) {
		t.Helper()
		var got inventory
		c.eventually(when, func() bool {
			got = c.inventory()
			for _, state := range serviceStates {
				if got.services[state] != services[state] {
					return false
				}
			}
			return got.addresses == addresses && len(got.warnings) == warnings
		})
	}
	want("nothing is there", 0, 0, nil)
	c.serve(service("web", createdAt(1)))
	want("a Service is served", 2, 0, map[serviceState]int{statePublished: 1})
	if got := c.inventory().proxies; got[proxyReady] != 2 || len(got) != 1 {
		t.Errorf("proxies %v", got)
	}
	c.create(service("loser", createdAt(2)))
	c.create(service("new", tcp(81)))
	c.create(service("wrong", tcp(82), withAnnotation(options.MaxNodes, "some")))
	c.create(service("other", tcp(83), ofClass("example.com/other")))
	want("one is in each state", 2, 2, map[serviceState]int{statePublished: 1, stateConflict: 1, statePending: 1, stateRefused: 1})
	c.delete("web")
	want("one waits for its proxies", 0, 2, map[serviceState]int{stateDeleting: 1, stateConflict: 1, statePending: 1, stateRefused: 1})
	c.endProxies("web")
	want("the conflict is over", 0, 1, map[serviceState]int{statePending: 2, stateRefused: 1})
	c.edit("wrong", func(svc *v1.Service) { svc.Annotations = nil })
	want("the error is corrected", 0, 0, map[serviceState]int{statePending: 3})
	for _, name := range []string{"loser", "new", "wrong"} {
		c.delete(name)
	}
	want("all are deleted", 0, 0, nil)
}
