package direct

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func testService(protocols ...v1.Protocol) *v1.Service {
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	for i, protocol := range protocols {
		svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Protocol: protocol, Port: int32(80 + i)})
	}
	return svc
}

func TestANewMirrorWithUDPPortsIsDelayed(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		protocols []v1.Protocol
		after     time.Duration
		delayed   bool
	}{
		"only TCP ports":                         {[]v1.Protocol{v1.ProtocolTCP}, time.Second, false},
		"only UDP ports":                         {[]v1.Protocol{v1.ProtocolUDP}, time.Second, true},
		"ports of both protocols":                {[]v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP}, time.Second, true},
		"UDP ports, when the endpoints exist":    {[]v1.Protocol{v1.ProtocolUDP}, endpointsTime, false},
		"UDP ports, an hour later":               {[]v1.Protocol{v1.ProtocolUDP}, time.Hour, false},
		"UDP ports, with a clock that is behind": {[]v1.Protocol{v1.ProtocolUDP}, -time.Hour, false},
	} {
		mirror := testService(tt.protocols...)
		mirror.CreationTimestamp.Time = created
		if delay := mirrorDelay(mirror, created.Add(tt.after)); delay > 0 != tt.delayed || delay > endpointsTime {
			t.Errorf("%s: delay %s", name, delay)
		}
	}
}

func TestNodesToServeFollowDatapathAndPorts(t *testing.T) {
	node := func(name string, ready v1.ConditionStatus) *v1.Node {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.NodeStatus{
			Addresses:  []v1.NodeAddress{{Type: v1.NodeExternalIP, Address: "203.0.113." + name[1:]}},
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: ready}},
		}}
	}
	proxyOn := func(name string, ready v1.ConditionStatus) *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{NodeName: name}, Status: v1.PodStatus{Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: ready}}}}
	}
	port := snapshot.Port{Protocol: v1.ProtocolTCP, Number: 80}
	all := []*v1.Node{node("n1", v1.ConditionTrue), node("n2", v1.ConditionTrue), node("n3", v1.ConditionUnknown), node("n4", v1.ConditionTrue)}
	for name, tt := range map[string]struct {
		mode      config.KubeProxyMode
		direct    bool
		current   map[string]bool
		occupied  map[string]bool
		published []string
		proxies   []*v1.Pod
		others    []*v1.Pod
		want      []string
	}{
		"all planned nodes":                                          {mode: config.KubeProxyIPTables, direct: true, want: []string{"n1", "n2", "n3"}},
		"no node without datapath direct":                            {mode: config.KubeProxyIPTables},
		"a published node that is not planned stays":                 {mode: config.KubeProxyIPTables, direct: true, current: map[string]bool{"n4": true}, published: []string{"203.0.113.4"}, want: []string{"n1", "n2", "n3", "n4"}},
		"no other node that is not planned":                          {mode: config.KubeProxyIPTables, direct: true, current: map[string]bool{"n4": true}, want: []string{"n1", "n2", "n3"}},
		"during the cutover to proxies, nodes without a ready proxy": {mode: config.KubeProxyIPTables, current: map[string]bool{"n1": true, "n2": true}, proxies: []*v1.Pod{proxyOn("n1", v1.ConditionTrue), proxyOn("n2", v1.ConditionFalse)}, want: []string{"n2"}},
		"then, a node that is down only while it is published":       {mode: config.KubeProxyIPTables, current: map[string]bool{"n2": true, "n3": true}, want: []string{"n2"}},
		"then, a node that is down and published":                    {mode: config.KubeProxyIPTables, current: map[string]bool{"n2": true, "n3": true}, published: []string{"203.0.113.3"}, want: []string{"n2", "n3"}},
		"no node where a foreign pod uses a port":                    {mode: config.KubeProxyIPTables, direct: true, occupied: map[string]bool{"n2": true}, want: []string{"n1", "n3"}},
		"in mode nftables, no node where other proxies drain":        {mode: config.KubeProxyNFTables, direct: true, others: []*v1.Pod{proxyOn("n1", v1.ConditionTrue)}, want: []string{"n2", "n3"}},
		"in mode nftables, a node that already serves":               {mode: config.KubeProxyNFTables, direct: true, current: map[string]bool{"n1": true}, others: []*v1.Pod{proxyOn("n1", v1.ConditionTrue)}, want: []string{"n1", "n2", "n3"}},
		"in mode iptables, draining proxies do not count":            {mode: config.KubeProxyIPTables, direct: true, others: []*v1.Pod{proxyOn("n1", v1.ConditionTrue)}, want: []string{"n1", "n2", "n3"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Manager{Mode: NewKubeProxyMode(nil, tt.mode)}
			svc := testService(v1.ProtocolTCP)
			for _, ip := range tt.published {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: ip})
			}
			var got []string
			for _, node := range m.NodesToServe(Cutover{
				Service: svc, Decision: Decision{Direct: tt.direct}, Current: State{Nodes: tt.current},
				Plan: &plan.Plan{Nodes: all[:3], NodeNames: snapshot.Names(all[:3]), OccupiedNodes: tt.occupied}, Nodes: all,
				Sets: []publish.ProxySet{{Pods: tt.proxies}}, OtherProxies: map[snapshot.Port][]*v1.Pod{port: tt.others},
			}) {
				got = append(got, node.Name)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("nodes differ (-want +got):\n%s", diff)
			}
		})
	}
}
