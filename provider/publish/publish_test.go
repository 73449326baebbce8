package publish

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	nodeproxy "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

var modes = IPMode{ExternalIPv4: v1.LoadBalancerIPModeVIP, Other: v1.LoadBalancerIPModeProxy}

// node returns a Ready node with the addresses 203.0.113.n (external) and 10.0.0.n (internal).
func node(n int, change ...func(*v1.Node)) *v1.Node {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", n)},
		Status: v1.NodeStatus{
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}},
			Addresses: []v1.NodeAddress{
				{Type: v1.NodeInternalIP, Address: fmt.Sprint("10.0.0.", n)},
				{Type: v1.NodeExternalIP, Address: fmt.Sprint("203.0.113.", n)},
				{Type: v1.NodeHostName, Address: fmt.Sprint("n", n)},
			},
		},
	}
	for _, c := range change {
		c(node)
	}
	return node
}

func inZone(zone string) func(*v1.Node) {
	return func(node *v1.Node) { node.Labels = map[string]string{v1.LabelTopologyZone: zone} }
}

func notReady(node *v1.Node) { node.Status.Conditions[0].Status = v1.ConditionUnknown }

func withTaint(key string) func(*v1.Node) {
	return func(node *v1.Node) { node.Spec.Taints = []v1.Taint{{Key: key}} }
}

func cordoned(node *v1.Node) { node.Spec.Unschedulable = true }

func addressed(list ...v1.NodeAddress) func(*v1.Node) {
	return func(node *v1.Node) { node.Status.Addresses = list }
}

func external(ip string) v1.NodeAddress { return v1.NodeAddress{Type: v1.NodeExternalIP, Address: ip} }
func internal(ip string) v1.NodeAddress { return v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip} }

func pod(n int, ready bool, change ...func(*v1.Pod)) *v1.Pod {
	status := v1.ConditionFalse
	if ready {
		status = v1.ConditionTrue
	}
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "hostport-system", Name: fmt.Sprint("proxy-", n)},
		Spec:       v1.PodSpec{NodeName: fmt.Sprint("n", n), Containers: []v1.Container{{Ports: []v1.ContainerPort{{HostPort: web.Number}}}}},
		Status:     v1.PodStatus{Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: status}}},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

// web is the port of proxies and their set, if nothing else is written.
var web = snapshot.Port{Protocol: v1.ProtocolTCP, Number: 80}

func withPort(number int32) func(*v1.Pod) {
	return func(pod *v1.Pod) { pod.Spec.Containers[0].Ports[0].HostPort = number }
}

// setOf returns a proxy set that was created long ago.
func setOf(pods ...*v1.Pod) ProxySet {
	return ProxySet{Ports: []snapshot.Port{web}, Pods: pods, Created: now.Add(-time.Hour)}
}

// oneSet returns the only proxy set of a Service.
func oneSet(pods ...*v1.Pod) []ProxySet { return []ProxySet{setOf(pods...)} }

// dual sets the external addresses of a node to 203.0.113.n and 2001:db8::n.
func dual(n int) func(*v1.Node) {
	return addressed(external(fmt.Sprint("203.0.113.", n)), external(fmt.Sprint("2001:db8::", n)))
}

// withoutIPv6 turns a pod into a proxy of a Service without IPv6.
func withoutIPv6(pod *v1.Pod) {
	pod.Spec.Containers[0].Args = []string{nodeproxy.WithoutIPv6}
}

func stopping(pod *v1.Pod) { pod.DeletionTimestamp = &metav1.Time{} }

func published(ips ...string) v1.LoadBalancerStatus {
	var s v1.LoadBalancerStatus
	for _, ip := range ips {
		s.Ingress = append(s.Ingress, v1.LoadBalancerIngress{IP: ip})
	}
	return s
}

func ips(s *v1.LoadBalancerStatus) []string {
	var list []string
	for _, entry := range s.Ingress {
		list = append(list, entry.IP)
	}
	return list
}

// statusCase has the addresses to publish for an input, which requests external ones by default.
type statusCase struct {
	in   Input
	want []string
}

func testStatus(t *testing.T, cases map[string]statusCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.in.Addresses == "" {
				c.in.Addresses = options.External
			}
			c.in.IPMode = modes
			if diff := cmp.Diff(c.want, ips(Status(c.in))); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStatusHasTheNodesThatServe(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"nodes with a ready proxy, sorted by number": {
			Input{Nodes: []*v1.Node{node(10), node(9), node(1)}, Sets: oneSet(pod(10, true), pod(9, true), pod(1, true))},
			[]string{"203.0.113.1", "203.0.113.9", "203.0.113.10"},
		},
		"nothing while no proxy is ready":             {Input{Nodes: []*v1.Node{node(1)}, Sets: oneSet(pod(1, false))}, nil},
		"no node without a proxy":                     {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, true))}, []string{"203.0.113.1"}},
		"no node that is not in the plan":             {Input{Nodes: []*v1.Node{node(1)}, Sets: oneSet(pod(1, true), pod(2, true)), Previous: published("203.0.113.1", "203.0.113.2")}, []string{"203.0.113.1"}},
		"no node whose proxy is terminating":          {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, true, stopping), pod(2, true))}, []string{"203.0.113.2"}},
		"a node with a terminating and a ready proxy": {Input{Nodes: []*v1.Node{node(1)}, Sets: oneSet(pod(1, true, stopping), pod(1, true))}, []string{"203.0.113.1"}},
		"no node that is not Ready":                   {Input{Nodes: []*v1.Node{node(1, notReady), node(2)}, Sets: oneSet(pod(1, true), pod(2, true)), Previous: published("203.0.113.1", "203.0.113.2")}, []string{"203.0.113.2"}},
		"no node without condition Ready":             {Input{Nodes: []*v1.Node{node(1, func(n *v1.Node) { n.Status.Conditions = nil })}, Sets: oneSet(pod(1, true))}, nil},
		"no cordoned node without a proxy": {
			Input{Nodes: []*v1.Node{node(1, cordoned), node(2)}, Sets: oneSet(pod(2, true)), Previous: published("203.0.113.1", "203.0.113.2")}, []string{"203.0.113.2"},
		},
		"a cordoned node that serves":    {Input{Nodes: []*v1.Node{node(1, cordoned)}, Sets: oneSet(pod(1, true))}, []string{"203.0.113.1"}},
		"no node that is out of service": {Input{Nodes: []*v1.Node{node(1, withTaint(v1.TaintNodeOutOfService))}, Sets: oneSet(pod(1, true)), Previous: published("203.0.113.1")}, nil},
		"no node that is being deleted":  {Input{Nodes: []*v1.Node{node(1, func(n *v1.Node) { n.DeletionTimestamp = &metav1.Time{} })}, Sets: oneSet(pod(1, true))}, nil},
	})
}

func TestStatusKeepsNodesThatMayStillServe(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"no node that the autoscaler will delete":                        {Input{Nodes: []*v1.Node{node(1, withTaint("ToBeDeletedByClusterAutoscaler")), node(2)}, Sets: oneSet(pod(1, true), pod(2, true)), Previous: published("203.0.113.1")}, []string{"203.0.113.2"}},
		"the last node that the autoscaler will delete, while it serves": {Input{Nodes: []*v1.Node{node(1, withTaint("ToBeDeletedByClusterAutoscaler"))}, Sets: oneSet(pod(1, true)), Previous: published("203.0.113.1")}, []string{"203.0.113.1"}},
		"a node that the autoscaler will delete rather than one that is not Ready": {
			Input{Nodes: []*v1.Node{node(1, withTaint("ToBeDeletedByClusterAutoscaler")), node(2, notReady)}, Sets: oneSet(pod(1, true)), Previous: published("203.0.113.1", "203.0.113.2")},
			[]string{"203.0.113.1"},
		},
		"no last node that the autoscaler will delete and that does not serve": {Input{Nodes: []*v1.Node{node(1, withTaint("ToBeDeletedByClusterAutoscaler"))}, Sets: oneSet(pod(1, false)), Previous: published("203.0.113.1")}, nil},
		"a deselected node until another node serves": {
			Input{Nodes: []*v1.Node{node(2)}, Others: []*v1.Node{node(1)}, Sets: oneSet(pod(2, false)), Previous: published("203.0.113.1")}, []string{"203.0.113.1"},
		},
		"a deselected node until another node serves all ports": {
			Input{Nodes: []*v1.Node{node(2)}, Others: []*v1.Node{node(1)}, Sets: []ProxySet{setOf(pod(2, true)), setOf(pod(1, true))}, Previous: published("203.0.113.1")},
			[]string{"203.0.113.1"},
		},
		"a node that serves some ports rather than no node": {
			Input{Nodes: []*v1.Node{node(2)}, Sets: []ProxySet{setOf(pod(2, true)), setOf()}, Previous: published("203.0.113.1")},
			[]string{"203.0.113.2"},
		},
		"a published node that serves some ports rather than one that serves none": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: []ProxySet{setOf(pod(2, true)), setOf()}, Previous: published("203.0.113.1", "203.0.113.2")},
			[]string{"203.0.113.2"},
		},
		"no deselected node that does not serve": {
			Input{Nodes: []*v1.Node{node(2, notReady)}, Others: []*v1.Node{node(1)}, Previous: published("203.0.113.1")}, nil,
		},
		"the last address while its proxy is being replaced": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, false)), Previous: published("203.0.113.1")},
			[]string{"203.0.113.1"},
		},
		"the last addresses of healthy nodes only": {
			Input{Nodes: []*v1.Node{node(1), node(2, notReady)}, Sets: oneSet(pod(2, true)), Previous: published("203.0.113.1", "203.0.113.2")},
			[]string{"203.0.113.1"},
		},
		"all last addresses when no node is Ready": {
			Input{Nodes: []*v1.Node{node(1, notReady), node(2, notReady)}, Previous: published("203.0.113.1", "203.0.113.2")},
			[]string{"203.0.113.1", "203.0.113.2"},
		},
		"no last address of deleted nodes": {Input{Previous: published("203.0.113.1")}, nil},
	})
}

func TestStatusWithPolicyLocal(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"nodes with an endpoint": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, true), pod(2, true)), Local: true, Endpoints: map[string]bool{"n2": true}}, []string{"203.0.113.2"},
		},
		"nodes with an endpoint that still serves if none is ready": {
			Input{
				Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, true), pod(2, true)), Local: true,
				ServingEndpoints: map[string]bool{"n2": true}, Previous: published("203.0.113.1"),
			}, []string{"203.0.113.2"},
		},
		"no node whose endpoint is terminating if another is ready": {
			Input{
				Nodes: []*v1.Node{node(1), node(2)}, Direct: map[string]bool{"n1": true, "n2": true}, Local: true, Previous: published("203.0.113.1"),
				Endpoints: map[string]bool{"n2": true}, ServingEndpoints: map[string]bool{"n1": true, "n2": true},
			}, []string{"203.0.113.2"},
		},
		"published nodes if there is no endpoint": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, true), pod(2, true)), Local: true, Previous: published("203.0.113.1")}, []string{"203.0.113.1"},
		},
		"all nodes if nothing is published and there is no endpoint": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, true), pod(2, true)), Local: true, Endpoints: map[string]bool{"n3": true}}, []string{"203.0.113.1", "203.0.113.2"},
		},
		"no node with an endpoint and without a proxy": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, true)), Local: true, Endpoints: map[string]bool{"n1": true, "n2": true}}, []string{"203.0.113.1"},
		},
	})
}

func TestStatusHasTheRequestedAddresses(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"no node without an address": {Input{Nodes: []*v1.Node{node(1, addressed(internal("10.0.0.1"), external("")))}, Sets: oneSet(pod(1, true))}, nil},
		"the new address of a node":  {Input{Nodes: []*v1.Node{node(7)}, Sets: oneSet(pod(7, true)), Previous: published("203.0.113.1")}, []string{"203.0.113.7"}},
		"each address once":          {Input{Nodes: []*v1.Node{node(1), node(2, addressed(external("203.0.113.1")))}, Sets: oneSet(pod(1, true), pod(2, true))}, []string{"203.0.113.1"}},
		"internal addresses":         {Input{Nodes: []*v1.Node{node(1)}, Sets: oneSet(pod(1, true)), Addresses: options.Internal}, []string{"10.0.0.1"}},
		"internal addresses of nodes without external ones": {
			Input{Nodes: []*v1.Node{node(1), node(2, addressed(internal("10.0.0.2")))}, Sets: oneSet(pod(1, true), pod(2, true)), Addresses: options.ExternalOrInternal},
			[]string{"10.0.0.2", "203.0.113.1"},
		},
		"an internal public IPv6 address of a node without an external one": {
			Input{
				Nodes: []*v1.Node{
					node(1, addressed(external("203.0.113.1"), internal("10.0.0.1"), internal("2001:db8::1"), internal("fd00::1"), internal("fe80::1"))),
					node(2, addressed(internal("198.51.100.2"), external("2001:db8::2"), internal("2001:db8::3"))),
				},
				Sets: oneSet(pod(1, true), pod(2, true)),
			},
			[]string{"203.0.113.1", "2001:db8::1", "2001:db8::2"},
		},
		"families in the Service's order": {
			Input{
				Nodes: []*v1.Node{node(1, addressed(external("203.0.113.1"), external("2001:DB8::1")))}, Sets: oneSet(pod(1, true)),
				Families: []v1.IPFamily{v1.IPv6Protocol, v1.IPv4Protocol},
			},
			[]string{"2001:db8::1", "203.0.113.1"},
		},
		"no family that the Service does not have": {
			Input{Nodes: []*v1.Node{node(1, addressed(external("203.0.113.1"), external("2001:db8::1")))}, Sets: oneSet(pod(1, true)), Families: []v1.IPFamily{v1.IPv4Protocol}},
			[]string{"203.0.113.1"},
		},
		"an IPv6 address that a proxy forwards": {
			Input{Nodes: []*v1.Node{node(1, dual(1)), node(2, dual(2))}, Sets: oneSet(pod(1, true, withoutIPv6), pod(2, true))},
			[]string{"203.0.113.1", "203.0.113.2", "2001:db8::2"},
		},
		"an IPv6 address that is served directly": {
			Input{Nodes: []*v1.Node{node(1, dual(1))}, Sets: oneSet(pod(1, true, withoutIPv6)), Direct: map[string]bool{"n1": true}},
			[]string{"203.0.113.1", "2001:db8::1"},
		},
		"no new IPv6 address while no proxy is ready": {
			Input{Nodes: []*v1.Node{node(1, dual(1)), node(2, dual(2))}, Previous: published("203.0.113.1", "203.0.113.2", "2001:db8::2")},
			[]string{"203.0.113.1", "203.0.113.2", "2001:db8::2"},
		},
	})
}

func TestStatusHasAtMostMaxNodes(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"nodes with an endpoint before others": {
			Input{
				Nodes: []*v1.Node{node(1), node(2), node(3)}, Sets: oneSet(pod(1, true), pod(2, true), pod(3, true)), Local: true,
				Endpoints: map[string]bool{"n2": true, "n3": true}, MaxNodes: 1, Previous: published("203.0.113.1"),
			}, []string{"203.0.113.2"},
		},
		"nodes of different zones": {
			Input{
				Nodes: []*v1.Node{node(1, inZone("a")), node(2, inZone("a")), node(3, inZone("b"))},
				Sets:  oneSet(pod(1, true), pod(2, true), pod(3, true)), MaxNodes: 2,
			},
			[]string{"203.0.113.1", "203.0.113.3"},
		},
		"published nodes before others": {
			Input{
				Nodes: []*v1.Node{node(1, inZone("a")), node(2, inZone("a")), node(3, inZone("b"))},
				Sets:  oneSet(pod(1, true), pod(2, true), pod(3, true)), MaxNodes: 1, Previous: published("203.0.113.2"),
			},
			[]string{"203.0.113.2"},
		},
		"another node for one that fails": {
			Input{
				Nodes: []*v1.Node{node(1), node(2), node(3, notReady)},
				Sets:  oneSet(pod(1, true), pod(2, true)), MaxNodes: 2, Previous: published("203.0.113.2", "203.0.113.3"),
			},
			[]string{"203.0.113.2", "203.0.113.1"},
		},
	})
}

func TestIPModeFollowsTheKindOfAddress(t *testing.T) {
	nodes := []*v1.Node{
		node(1, addressed(external("203.0.113.1"), external("2001:db8::1"))),
		node(2, addressed(internal("10.0.0.2"))),
	}
	const vip, proxy = v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy
	for name, c := range map[string]struct {
		direct map[string]bool
		modes  IPMode
		want   map[string]v1.LoadBalancerIPMode
	}{
		"VIP for translated addresses only": {
			nil, modes, map[string]v1.LoadBalancerIPMode{"203.0.113.1": vip, "2001:db8::1": proxy, "10.0.0.2": proxy},
		},
		"no other modes with a mirror": {
			map[string]bool{"n1": true, "n2": true}, modes, map[string]v1.LoadBalancerIPMode{"203.0.113.1": vip, "2001:db8::1": proxy, "10.0.0.2": proxy},
		},
		"VIP for nodes that are served directly without a mirror": {
			map[string]bool{"n2": true}, IPMode{proxy, proxy, vip}, map[string]v1.LoadBalancerIPMode{"203.0.113.1": proxy, "2001:db8::1": proxy, "10.0.0.2": vip},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]v1.LoadBalancerIPMode{}
			for _, entry := range Status(Input{
				Nodes: nodes, Sets: oneSet(pod(1, true), pod(2, true)), Direct: c.direct,
				Addresses: options.ExternalOrInternal, IPMode: c.modes,
			}).Ingress {
				got[entry.IP] = *entry.IPMode
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("modes differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlyAlreadyPublishedAddsNoAddress(t *testing.T) {
	first, second, third, foreign := "203.0.113.1", "203.0.113.2", "203.0.113.3", "192.0.2.1"
	nodes := []*v1.Node{node(1), node(2), node(3)}
	for name, c := range map[string]struct{ status, previous, want []string }{
		"no address is added":                     {[]string{first, second}, []string{first}, []string{first}},
		"addresses are removed":                   {[]string{first}, []string{first, second}, []string{first}},
		"the last unhealthy address is replaced":  {[]string{third}, []string{first}, []string{third}},
		"an address that no node has is replaced": {[]string{third}, []string{foreign}, []string{third}},
		"an address that no node has is removed":  {[]string{first}, []string{first, foreign}, []string{first}},
		"all addresses stay if none would remain": {nil, []string{first}, []string{first}},
		"but not one that no node has":            {nil, []string{first, foreign}, []string{first}},
		"nor if it is the only one":               {nil, []string{foreign}, nil},
		"an empty status stays empty":             {[]string{first}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			status := published(c.status...)
			if diff := cmp.Diff(c.want, ips(OnlyAlreadyPublished(&status, published(c.previous...), nodes))); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheStatusOfARefusedServiceOnlyLosesAddresses(t *testing.T) {
	first, second, inside, gone := "203.0.113.1", "203.0.113.2", "10.0.0.2", "192.0.2.1"
	serving := oneSet(pod(1, true), pod(2, true))
	for name, c := range map[string]struct {
		in   Input
		want []string
	}{
		"nodes that serve stay":            {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: serving, Previous: published(first, second)}, []string{first, second}},
		"none is added":                    {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: serving, Previous: published(first)}, []string{first}},
		"a first one neither":              {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: serving}, nil},
		"an internal one stays":            {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: serving, Previous: published(inside)}, []string{inside}},
		"a node that is down leaves":       {Input{Nodes: []*v1.Node{node(1), node(2, notReady)}, Sets: serving, Previous: published(first, second)}, []string{first}},
		"the last node that is down stays": {Input{Nodes: []*v1.Node{node(2, notReady)}, Sets: serving, Previous: published(second)}, []string{second}},
		"a node without a proxy leaves":    {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: oneSet(pod(1, true)), Previous: published(first, second)}, []string{first}},
		"a node served directly stays":     {Input{Nodes: []*v1.Node{node(1), node(2)}, Direct: map[string]bool{"n2": true}, Previous: published(first, second)}, []string{second}},
		"an address of no node leaves":     {Input{Nodes: []*v1.Node{node(1)}, Sets: serving, Previous: published(first, gone)}, []string{first}},
		"even if it is the only one":       {Input{Nodes: []*v1.Node{node(1)}, Sets: serving, Previous: published(gone)}, nil},
		"a node without an endpoint leaves with policy Local": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: serving, Local: true, Endpoints: map[string]bool{"n2": true}, Previous: published(first, second)}, []string{second},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.in.Addresses = options.External
			if diff := cmp.Diff(c.want, ips(StatusOfRefused(c.in))); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheStatusOfARefusedServiceIsPartOfThePreviousOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		got := StatusOfRefused(in)
		for _, entry := range got.Ingress {
			if !slices.ContainsFunc(in.Previous.Ingress, func(p v1.LoadBalancerIngress) bool { return cmp.Equal(p, entry) }) {
				t.Fatalf("%v was not published before", entry)
			}
		}
		again := in
		again.Previous = *got
		if diff := cmp.Diff(got, StatusOfRefused(again)); diff != "" {
			t.Fatalf("the status is not stable (-first +second):\n%s", diff)
		}
	})
}

func TestOnlyAlreadyPublishedKeepsNoUnhealthyNode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		status := Status(in)
		got := OnlyAlreadyPublished(status, in.Previous, in.Nodes)
		if len(in.Previous.Ingress) > 0 && len(got.Ingress) == 0 {
			t.Fatal("all addresses are removed")
		}
		for _, entry := range got.Ingress {
			if len(status.Ingress) > 0 && !slices.Contains(ips(status), entry.IP) {
				t.Fatalf("%s stays published although others serve", entry.IP)
			}
			if len(in.Previous.Ingress) == 0 {
				t.Fatalf("%s is published before the firewall allows the ports", entry.IP)
			}
		}
	})
}
