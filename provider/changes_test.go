package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// serves waits until the proxy sets of a Service have exactly these ports, set by set.
func (c *cluster) serves(name string, want ...string) {
	c.Helper()
	c.eventually(fmt.Sprintf("the proxies of %s have ports %v", name, want), func() bool {
		var got []string
		for set := range plan.SetNames(service(name)) {
			if ds := c.daemonSetOf(set, name); ds != nil {
				for _, port := range snapshot.HostPorts(ds.Spec.Template.Spec) {
					got = append(got, port.String())
				}
			}
		}
		return slices.Equal(got, want)
	})
}

func TestAnEditedServiceKeepsItsAddresses(t *testing.T) {
	both := []string{"203.0.113.1", "203.0.113.2"}
	long := strings.Repeat("x", 63)
	for name, c := range map[string]struct {
		change func(*v1.Service)
		ports  []string
		// replaces reports whether the change replaces the proxies.
		replaces bool
	}{
		"a port is added":      {tcp(80, 443), []string{"80/TCP", "443/TCP"}, false},
		"a port is renumbered": {tcp(81), []string{"81/TCP"}, true},
		"the protocol changes": {func(svc *v1.Service) { svc.Spec.Ports[0].Protocol = v1.ProtocolUDP }, []string{"80/UDP"}, true},
		"a port is renamed to 63 characters": {
			func(svc *v1.Service) { svc.Spec.Ports[0].Name = long }, []string{"80/TCP"}, false,
		},
		"the target port changes": {func(svc *v1.Service) { svc.Spec.Ports[0].TargetPort.IntVal = 9090 }, []string{"80/TCP"}, false},
		"the selector changes":    {func(svc *v1.Service) { svc.Spec.Selector = map[string]string{"app": "other"} }, []string{"80/TCP"}, false},
		"node port allocation is disabled": {
			func(svc *v1.Service) { svc.Spec.AllocateLoadBalancerNodePorts = ptr.To(false) }, []string{"80/TCP"}, false,
		},
		// IPv6 forwarding requires another container in the pods.
		"an IP family is added": {
			func(svc *v1.Service) {
				svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, v1.IPv6Protocol)
				svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, "2001:db8::7")
			}, []string{"80/TCP"}, true,
		},
		"the source ranges change": {
			func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} }, []string{"80/TCP"}, false,
		},
		"the session affinity changes":  {func(svc *v1.Service) { svc.Spec.SessionAffinity = v1.ServiceAffinityClientIP }, []string{"80/TCP"}, false},
		"annotation max-nodes is added": {withAnnotation(options.MaxNodes, "2"), []string{"80/TCP"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cl := twoNodes(t)
			cl.start()
			cl.serve(service("web"))
			before := cl.daemonSet("web").Spec.Template
			cl.edit("web", c.change)
			cl.serves("web", c.ports...)
			cl.settle()
			cl.publishes("web", both...)
			after := cl.daemonSet("web")
			if replaced := after == nil || !cmp.Equal(before, after.Spec.Template); replaced != c.replaces {
				t.Errorf("proxies replaced: %t, want %t", replaced, c.replaces)
			}
			affinity := cl.service("web").Spec.SessionAffinity == v1.ServiceAffinityClientIP
			if got := cl.warnings("web"); len(got) > 1 || affinity != cl.hasEvent("Warning AffinityPerNode web") || !affinity && len(got) > 0 {
				t.Errorf("warnings: %q", got)
			}
		})
	}
}

func TestAServiceChangesToClusterIPAndBack(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.edit("web", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
	c.endProxies("web")
	c.eventually("the finalizers are removed", func() bool { return len(c.service("web").Finalizers) == 0 })
	c.wantNoResources("web")
	c.publishes("web")
	c.edit("web", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeLoadBalancer })
	c.serves("web", "80/TCP")
	c.proxy("web", "n1", ready)
	c.proxy("web", "n2", ready)
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestARecreatedServiceGetsNewProxies(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.delete("web")
	c.endProxies("web")
	c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
	c.wantNoResources("web")
	c.create(service("web", withClusterIP("10.96.0.99")))
	c.eventually("the config of its proxies has the new cluster IP", func() bool {
		cm := c.configMap("web")
		return cm != nil && strings.Contains(fmt.Sprint(cm.Data), "10.96.0.99")
	})
	c.proxy("web", "n1", ready)
	c.proxy("web", "n2", ready)
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestAServiceWithALongNameAndAHundredPortsIsServed(t *testing.T) {
	name := strings.Repeat("n", 63)
	var numbers []int32
	var want []string
	for i := range int32(100) {
		numbers = append(numbers, 1000+i)
		want = append(want, fmt.Sprintf("%d/TCP", 1000+i))
	}
	c := twoNodes(t)
	c.start()
	c.serve(service(name, tcp(numbers...), func(svc *v1.Service) {
		for i := range svc.Spec.Ports {
			svc.Spec.Ports[i].Name = fmt.Sprintf("%063d", i)
		}
	}))
	c.serves(name, want...)
}

// endpoints sets the nodes of a Service's ready endpoints.
func (c *cluster) endpoints(name string, nodes ...string) {
	c.Helper()
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{NodeName: ptr.To("n9"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}},
	}
	for _, node := range nodes {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{NodeName: &node})
	}
	client := c.kube.DiscoveryV1().EndpointSlices("default")
	if _, err := client.Update(context.Background(), slice, metav1.UpdateOptions{}); err == nil {
		return
	}
	must[*discoveryv1.EndpointSlice](c)(client.Create(context.Background(), slice, metav1.CreateOptions{}))
}

func TestWithPolicyLocalTheStatusFollowsTheEndpoints(t *testing.T) {
	c := twoNodes(t)
	c.endpoints("web", "n1", "n2") // Without endpoints, only the first published node would stay.
	c.start()
	c.serve(service("web", func(svc *v1.Service) { svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal }))
	c.endpoints("web", "n2")
	c.publishes("web", "203.0.113.2")
	c.endpoints("web", "n1", "n2")
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.endpoints("web", "n1")
	c.publishes("web", "203.0.113.1")
	c.endpoints("web")
	c.settle()
	c.publishes("web", "203.0.113.1")
	c.edit("web", func(svc *v1.Service) { svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster })
	c.publishes("web", "203.0.113.1", "203.0.113.2")
}

func TestTheInternalPolicyLocalCountsForProxiesOnly(t *testing.T) {
	local := v1.ServiceInternalTrafficPolicyLocal
	internalLocal := func(svc *v1.Service) { svc.Spec.InternalTrafficPolicy = &local }
	c := twoTranslatedNodes(t)
	c.endpoints("web", "n1", "n2")
	c.endpoints("direct", "n1")
	c.start()
	c.serve(service("web", internalLocal))
	c.endpoints("web", "n2")
	c.publishes("web", "203.0.113.2")
	c.serveDirectly(service("direct", tcp(81), internalLocal, withDatapath(options.DatapathDirect)))
}

func TestChangesThatDoNotConcernAServiceCauseNoWrites(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.endpoints("web", "n1")
	c.settle()
	c.kube.ClearActions()
	c.endpoints("web", "n2")
	c.edit("web", func(svc *v1.Service) { svc.Labels = map[string]string{"a": "b"} })
	c.proxy("web", "n1", ready)
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Create(context.Background(), node("n3", "203.0.113.3"), metav1.CreateOptions{}))
	must[*v1.Pod](c)(c.kube.CoreV1().Pods("apps").Create(context.Background(), foreignPod("x", "n1", 8080), metav1.CreateOptions{}))
	c.settle()
	var ours []string
	for _, w := range c.writes() {
		if w == "patch services/status" || strings.HasSuffix(w, " daemonsets") || strings.HasSuffix(w, " configmaps") {
			ours = append(ours, w)
		}
	}
	// The Service that settle creates causes at most five: finalizers, ConfigMap, DaemonSet, and
	// one status per proxy.
	if extra := len(ours) - 5; extra > 0 {
		t.Errorf("%d writes too many: %v", extra, ours)
	}
}
