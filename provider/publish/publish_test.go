package publish

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	nodeproxy "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

var modes = IPMode{ExternalIPv4: v1.LoadBalancerIPModeVIP, Other: v1.LoadBalancerIPModeProxy}

// node has the external address 203.0.113.n and the internal one 10.0.0.n.
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
		Spec:       v1.PodSpec{NodeName: fmt.Sprint("n", n)},
		Status:     v1.PodStatus{Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: status}}},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

// one is the only set of a Service.
func one(pods ...*v1.Pod) []ProxySet { return []ProxySet{{Pods: pods}} }

// dual gives a node the addresses 203.0.113.n and 2001:db8::n.
func dual(n int) func(*v1.Node) {
	return addressed(external(fmt.Sprint("203.0.113.", n)), external(fmt.Sprint("2001:db8::", n)))
}

// ofIPv4 makes a proxy one that was made for a Service without IPv6.
func ofIPv4(pod *v1.Pod) {
	pod.Spec.Containers = []v1.Container{{Args: []string{nodeproxy.WithoutIPv6}}}
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

// statusCase is what is to be published of an input, external addresses if it does
// not say.
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

func TestStatusShowsTheNodesThatServe(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"nodes whose proxy is ready, sorted as numbers": {
			Input{Nodes: []*v1.Node{node(10), node(9), node(1)}, Sets: one(pod(10, true), pod(9, true), pod(1, true))},
			[]string{"203.0.113.1", "203.0.113.9", "203.0.113.10"},
		},
		"nothing while no proxy is ready":         {Input{Nodes: []*v1.Node{node(1)}, Sets: one(pod(1, false))}, nil},
		"no node without a proxy":                 {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: one(pod(1, true))}, []string{"203.0.113.1"}},
		"no node that the plan left out":          {Input{Nodes: []*v1.Node{node(1)}, Sets: one(pod(1, true), pod(2, true)), Previous: published("203.0.113.1", "203.0.113.2")}, []string{"203.0.113.1"}},
		"no node whose proxy is being stopped":    {Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: one(pod(1, true, stopping), pod(2, true))}, []string{"203.0.113.2"}},
		"a node whose old proxy is being stopped": {Input{Nodes: []*v1.Node{node(1)}, Sets: one(pod(1, true, stopping), pod(1, true))}, []string{"203.0.113.1"}},
		"no node that is not Ready":               {Input{Nodes: []*v1.Node{node(1, notReady), node(2)}, Sets: one(pod(1, true), pod(2, true)), Previous: published("203.0.113.1", "203.0.113.2")}, []string{"203.0.113.2"}},
		"no node without a word on readiness":     {Input{Nodes: []*v1.Node{node(1, func(n *v1.Node) { n.Status.Conditions = nil })}, Sets: one(pod(1, true))}, nil},
		"no node that is cordoned once its proxy is gone": {
			Input{Nodes: []*v1.Node{node(1, cordoned), node(2)}, Sets: one(pod(2, true)), Previous: published("203.0.113.1", "203.0.113.2")}, []string{"203.0.113.2"},
		},
		"a node that is cordoned and serves": {Input{Nodes: []*v1.Node{node(1, cordoned)}, Sets: one(pod(1, true))}, []string{"203.0.113.1"}},
		"no node declared out of service":    {Input{Nodes: []*v1.Node{node(1, withTaint(v1.TaintNodeOutOfService))}, Sets: one(pod(1, true)), Previous: published("203.0.113.1")}, nil},
		"no node that is being deleted":      {Input{Nodes: []*v1.Node{node(1, func(n *v1.Node) { n.DeletionTimestamp = &metav1.Time{} })}, Sets: one(pod(1, true))}, nil},
	})
}

func TestStatusKeepsWhatMayStillServe(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"no node the autoscaler is to remove":   {Input{Nodes: []*v1.Node{node(1, withTaint("ToBeDeletedByClusterAutoscaler")), node(2)}, Sets: one(pod(1, true), pod(2, true)), Previous: published("203.0.113.1")}, []string{"203.0.113.2"}},
		"but the last one as long as it serves": {Input{Nodes: []*v1.Node{node(1, withTaint("ToBeDeletedByClusterAutoscaler"))}, Sets: one(pod(1, true)), Previous: published("203.0.113.1")}, []string{"203.0.113.1"}},
		"and rather that one than one that may be dead": {
			Input{Nodes: []*v1.Node{node(1, withTaint("ToBeDeletedByClusterAutoscaler")), node(2, notReady)}, Sets: one(pod(1, true)), Previous: published("203.0.113.1", "203.0.113.2")},
			[]string{"203.0.113.1"},
		},
		"and not once it serves no more": {Input{Nodes: []*v1.Node{node(1, withTaint("ToBeDeletedByClusterAutoscaler"))}, Sets: one(pod(1, false)), Previous: published("203.0.113.1")}, nil},
		"a deselected node until another serves": {
			Input{Nodes: []*v1.Node{node(2)}, Others: []*v1.Node{node(1)}, Sets: one(pod(2, false)), Previous: published("203.0.113.1")}, []string{"203.0.113.1"},
		},
		"a deselected node until another serves all ports": {
			Input{Nodes: []*v1.Node{node(2)}, Others: []*v1.Node{node(1)}, Sets: []ProxySet{{Pods: []*v1.Pod{pod(2, true)}}, {Pods: []*v1.Pod{pod(1, true)}}}, Previous: published("203.0.113.1")},
			[]string{"203.0.113.1"},
		},
		"a node that serves some ports before none": {
			Input{Nodes: []*v1.Node{node(2)}, Sets: []ProxySet{{Pods: []*v1.Pod{pod(2, true)}}, {}}, Previous: published("203.0.113.1")},
			[]string{"203.0.113.2"},
		},
		"no deselected node if no other can": {
			Input{Nodes: []*v1.Node{node(2, notReady)}, Others: []*v1.Node{node(1)}, Previous: published("203.0.113.1")}, nil,
		},
		"the last address while its proxy is replaced": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: one(pod(1, false)), Previous: published("203.0.113.1")},
			[]string{"203.0.113.1"},
		},
		"of the last addresses those of healthy nodes": {
			Input{Nodes: []*v1.Node{node(1), node(2, notReady)}, Sets: one(pod(2, true)), Previous: published("203.0.113.1", "203.0.113.2")},
			[]string{"203.0.113.1"},
		},
		"all last addresses when every node is lost at once": {
			Input{Nodes: []*v1.Node{node(1, notReady), node(2, notReady)}, Previous: published("203.0.113.1", "203.0.113.2")},
			[]string{"203.0.113.1", "203.0.113.2"},
		},
		"no last address of nodes that are gone": {Input{Previous: published("203.0.113.1")}, nil},
	})
}

func TestStatusWithPolicyLocal(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"with policy Local nodes with an endpoint": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: one(pod(1, true), pod(2, true)), Local: true, Endpoints: map[string]bool{"n2": true}}, []string{"203.0.113.2"},
		},
		"with policy Local and no endpoint those published before": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: one(pod(1, true), pod(2, true)), Local: true, Previous: published("203.0.113.1")}, []string{"203.0.113.1"},
		},
		"with policy Local and no endpoint ever all": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: one(pod(1, true), pod(2, true)), Local: true, Endpoints: map[string]bool{"n3": true}}, []string{"203.0.113.1", "203.0.113.2"},
		},
		"with policy Local no node that has an endpoint and no proxy": {
			Input{Nodes: []*v1.Node{node(1), node(2)}, Sets: one(pod(1, true)), Local: true, Endpoints: map[string]bool{"n1": true, "n2": true}}, []string{"203.0.113.1"},
		},
	})
}

func TestStatusShowsTheAddressesAskedFor(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"no node without an address": {Input{Nodes: []*v1.Node{node(1, addressed(internal("10.0.0.1"), external("")))}, Sets: one(pod(1, true))}, nil},
		"the new address of a node":  {Input{Nodes: []*v1.Node{node(7)}, Sets: one(pod(7, true)), Previous: published("203.0.113.1")}, []string{"203.0.113.7"}},
		"each address once":          {Input{Nodes: []*v1.Node{node(1), node(2, addressed(external("203.0.113.1")))}, Sets: one(pod(1, true), pod(2, true))}, []string{"203.0.113.1"}},
		"internal addresses":         {Input{Nodes: []*v1.Node{node(1)}, Sets: one(pod(1, true)), Addresses: options.Internal}, []string{"10.0.0.1"}},
		"internal addresses for want of external ones, node by node": {
			Input{Nodes: []*v1.Node{node(1), node(2, addressed(internal("10.0.0.2")))}, Sets: one(pod(1, true), pod(2, true)), Addresses: options.ExternalOrInternal},
			[]string{"10.0.0.2", "203.0.113.1"},
		},
		"an internal IPv6 address that is public, for want of an external one": {
			Input{
				Nodes: []*v1.Node{
					node(1, addressed(external("203.0.113.1"), internal("10.0.0.1"), internal("2001:db8::1"), internal("fd00::1"), internal("fe80::1"))),
					node(2, addressed(internal("198.51.100.2"), external("2001:db8::2"), internal("2001:db8::3"))),
				},
				Sets: one(pod(1, true), pod(2, true)),
			},
			[]string{"203.0.113.1", "2001:db8::1", "2001:db8::2"},
		},
		"families in the Service's order": {
			Input{
				Nodes: []*v1.Node{node(1, addressed(external("203.0.113.1"), external("2001:DB8::1")))}, Sets: one(pod(1, true)),
				Families: []v1.IPFamily{v1.IPv6Protocol, v1.IPv4Protocol},
			},
			[]string{"2001:db8::1", "203.0.113.1"},
		},
		"no family that the Service does not have": {
			Input{Nodes: []*v1.Node{node(1, addressed(external("203.0.113.1"), external("2001:db8::1")))}, Sets: one(pod(1, true)), Families: []v1.IPFamily{v1.IPv4Protocol}},
			[]string{"203.0.113.1"},
		},
		"an IPv6 address when a proxy forwards it": {
			Input{Nodes: []*v1.Node{node(1, dual(1)), node(2, dual(2))}, Sets: one(pod(1, true, ofIPv4), pod(2, true))},
			[]string{"203.0.113.1", "203.0.113.2", "2001:db8::2"},
		},
		"an IPv6 address that is served directly": {
			Input{Nodes: []*v1.Node{node(1, dual(1))}, Sets: one(pod(1, true, ofIPv4)), Direct: map[string]bool{"n1": true}},
			[]string{"203.0.113.1", "2001:db8::1"},
		},
		"no other IPv6 address than before while no proxy is ready": {
			Input{Nodes: []*v1.Node{node(1, dual(1)), node(2, dual(2))}, Previous: published("203.0.113.1", "203.0.113.2", "2001:db8::2")},
			[]string{"203.0.113.1", "203.0.113.2", "2001:db8::2"},
		},
	})
}

func TestStatusShowsAtMostMaxNodes(t *testing.T) {
	testStatus(t, map[string]statusCase{
		"max-nodes of the nodes with an endpoint": {
			Input{
				Nodes: []*v1.Node{node(1), node(2), node(3)}, Sets: one(pod(1, true), pod(2, true), pod(3, true)), Local: true,
				Endpoints: map[string]bool{"n2": true, "n3": true}, MaxNodes: 1, Previous: published("203.0.113.1"),
			}, []string{"203.0.113.2"},
		},
		"max-nodes spreads over zones": {
			Input{
				Nodes: []*v1.Node{node(1, inZone("a")), node(2, inZone("a")), node(3, inZone("b"))},
				Sets:  one(pod(1, true), pod(2, true), pod(3, true)), MaxNodes: 2,
			},
			[]string{"203.0.113.1", "203.0.113.3"},
		},
		"max-nodes keeps who serves": {
			Input{
				Nodes: []*v1.Node{node(1, inZone("a")), node(2, inZone("a")), node(3, inZone("b"))},
				Sets:  one(pod(1, true), pod(2, true), pod(3, true)), MaxNodes: 1, Previous: published("203.0.113.2"),
			},
			[]string{"203.0.113.2"},
		},
		"max-nodes replaces who fails": {
			Input{
				Nodes: []*v1.Node{node(1), node(2), node(3, notReady)},
				Sets:  one(pod(1, true), pod(2, true)), MaxNodes: 2, Previous: published("203.0.113.2", "203.0.113.3"),
			},
			[]string{"203.0.113.1", "203.0.113.2"},
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
		"VIP is of translated addresses only": {
			nil, modes, map[string]v1.LoadBalancerIPMode{"203.0.113.1": vip, "2001:db8::1": proxy, "10.0.0.2": proxy},
		},
		"a mirror changes nothing": {
			map[string]bool{"n1": true, "n2": true}, modes, map[string]v1.LoadBalancerIPMode{"203.0.113.1": vip, "2001:db8::1": proxy, "10.0.0.2": proxy},
		},
		"VIP is of nodes served directly, if there is no mirror": {
			map[string]bool{"n2": true}, IPMode{proxy, proxy, vip}, map[string]v1.LoadBalancerIPMode{"203.0.113.1": proxy, "2001:db8::1": proxy, "10.0.0.2": vip},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]v1.LoadBalancerIPMode{}
			for _, entry := range Status(Input{
				Nodes: nodes, Sets: one(pod(1, true), pod(2, true)), Direct: c.direct,
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

func TestOnlyAlreadyPublished(t *testing.T) {
	one, two, three, other := "203.0.113.1", "203.0.113.2", "203.0.113.3", "192.0.2.1"
	nodes := []*v1.Node{node(1), node(2), node(3)}
	for name, c := range map[string]struct{ status, previous, want []string }{
		"adds nothing":                            {[]string{one, two}, []string{one}, []string{one}},
		"lets addresses leave":                    {[]string{one}, []string{one, two}, []string{one}},
		"lets the last bad one be replaced":       {[]string{three}, []string{one}, []string{three}},
		"leaves what others published":            {[]string{three}, []string{other}, []string{other}},
		"leaves all where nothing would be there": {nil, []string{one}, []string{one}},
		"stays empty":                             {[]string{one}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			status := published(c.status...)
			if diff := cmp.Diff(c.want, ips(OnlyAlreadyPublished(&status, published(c.previous...), nodes))); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoBadNodeStaysForLackOfANewOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		status := Status(in)
		got := OnlyAlreadyPublished(status, in.Previous, in.Nodes)
		if len(in.Previous.Ingress) > 0 && len(got.Ingress) == 0 {
			t.Fatal("everything is withdrawn")
		}
		for _, entry := range got.Ingress {
			if len(status.Ingress) > 0 && !slices.Contains(ips(status), entry.IP) {
				t.Fatalf("%s stays published although others serve", entry.IP)
			}
			if len(in.Previous.Ingress) == 0 {
				t.Fatalf("%s is published before the ports are open", entry.IP)
			}
		}
	})
}
