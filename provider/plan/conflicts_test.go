package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// serviceOfAge returns a Service with a certain age and TCP ports.
func serviceOfAge(name string, age int, selector string, ports ...int32) *v1.Service {
	svc := service()
	svc.Name, svc.UID = name, types.UID(name)
	svc.CreationTimestamp = metav1.Time{Time: time.Unix(1_000_000-int64(age), 0)}
	svc.Spec.Ports = nil
	for _, port := range ports {
		svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Port: port, Protocol: v1.ProtocolTCP})
	}
	if selector != "" {
		svc.Annotations = map[string]string{options.NodeSelector: selector}
	}
	return svc
}

func podOn(name, node string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name}, Spec: v1.PodSpec{NodeName: node}}
}

var twoPools = []*v1.Node{node("a1", map[string]string{"pool": "a"}), node("b1", map[string]string{"pool": "b"})}

func admit(svc *v1.Service) (options.Options, error) {
	return options.Parse(svc.Annotations, options.Default())
}

func conflictsOf(t failer, s Settings, svc *v1.Service, nodes []*v1.Node, others []*v1.Service, pods map[snapshot.Port][]*v1.Pod) []Conflict {
	o, err := options.Parse(svc.Annotations, options.Default())
	if err != nil {
		t.Fatal(err)
	}
	cluster := snapshot.New(nodes, others, admit, others)
	conflicts, _ := s.conflicts(Input{Service: svc, Options: o, Cluster: cluster, ForeignPods: pods}, snapshot.Names(snapshot.SelectNodes(nodes, o)), nil)
	return conflicts
}

// failer is what *testing.T and *rapid.T have in common here.
type failer interface{ Fatal(...any) }

func TestConflictsOfServicesPodsAndReservedPorts(t *testing.T) {
	otherProtocol := serviceOfAge("udp", 9, "", 80)
	otherProtocol.Spec.Ports[0].Protocol = v1.ProtocolUDP
	broken := serviceOfAge("broken", 9, "", 80)
	broken.Annotations = map[string]string{options.MaxNodes: "many", options.NodeSelector: "pool=none"}
	for name, c := range map[string]struct {
		svc    *v1.Service
		others []*v1.Service
		pods   []*v1.Pod
		want   []string
	}{
		"a single Service has all its ports":      {serviceOfAge("web", 5, "", 80, 443), nil, nil, nil},
		"a Service does not conflict with itself": {serviceOfAge("web", 5, "", 80), []*v1.Service{serviceOfAge("web", 5, "", 80)}, nil, nil},
		"the older keeps the port":                {serviceOfAge("web", 5, "", 80), []*v1.Service{serviceOfAge("young", 4, "", 80)}, nil, nil},
		"the younger loses the port, with a message that names the holder": {
			serviceOfAge("web", 5, "", 80, 443), []*v1.Service{serviceOfAge("old", 6, "", 80)}, nil,
			[]string{"PortConflict port 80/TCP belongs to Service default/old on nodes that both select"},
		},
		"of two with the same age, the first by UID keeps the port": {
			serviceOfAge("web", 5, "", 80), []*v1.Service{serviceOfAge("also", 5, "", 80)}, nil, []string{"PortConflict port 80/TCP belongs to Service default/also"},
		},
		"another protocol is another port":       {serviceOfAge("web", 5, "", 80), []*v1.Service{otherProtocol}, nil, nil},
		"Services on disjoint nodes share ports": {serviceOfAge("web", 5, "pool=a", 80), []*v1.Service{serviceOfAge("old", 6, "pool=b", 80)}, nil, nil},
		"a Service that loses a port does not block it for others": {
			// old has pool a. middle selects both pools and loses, so pool b is free.
			serviceOfAge("web", 5, "pool=b", 80), []*v1.Service{serviceOfAge("old", 7, "pool=a", 80), serviceOfAge("middle", 6, "", 80)}, nil, nil,
		},
		"a Service with invalid annotations claims nothing": {serviceOfAge("web", 5, "", 80), []*v1.Service{broken}, nil, nil},
		"pods use the port on all nodes": {
			serviceOfAge("web", 5, "", 80, 443), nil, []*v1.Pod{podOn("y", "b1"), podOn("x", "a1")},
			[]string{"PortConflict port 80/TCP is a host port of pods on all nodes that the Service selects, one is apps/x"},
		},
		"pods use the port on some nodes only":             {serviceOfAge("web", 5, "", 80), nil, []*v1.Pod{podOn("x", "a1")}, nil},
		"pods on nodes that are not selected do not count": {serviceOfAge("web", 5, "pool=b", 80), nil, []*v1.Pod{podOn("x", "a1")}, nil},
		"a port that the older loses to pods is free for the younger": {
			serviceOfAge("web", 5, "", 80), []*v1.Service{serviceOfAge("old", 6, "pool=a", 80)}, []*v1.Pod{podOn("x", "a1")}, nil,
		},
		"reserved ports are refused": {
			serviceOfAge("web", 5, "", 22, 80, 443, 2380, 32767), nil, nil,
			[]string{"PortReserved port 22/TCP is reserved for SSH", "PortReserved port 2380/TCP is reserved for etcd", "PortReserved port 32767/TCP is reserved for node ports"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings
			s.Reserved = (&config.LoadBalancer{ReservedPorts: []string{"22", "2379-2380/TCP", "443/UDP"}, NodePortRange: "30000-32767"}).Reserved()
			got := conflictsOf(t, s, c.svc, twoPools, c.others, map[snapshot.Port][]*v1.Pod{tcp(80): c.pods})
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			for i, want := range c.want {
				if line := got[i].Reason + " " + got[i].Message; !strings.HasPrefix(line, want) {
					t.Errorf("got %q, want %q", line, want)
				}
			}
		})
	}
}

func TestAnOlderServiceKeepsItsPortOnANodeThatGetsTainted(t *testing.T) {
	old, web := serviceOfAge("old", 6, "", 80), serviceOfAge("web", 5, "", 80, 443)
	tainted := node("n1", nil, v1.Taint{Key: "x", Effect: v1.TaintEffectNoSchedule})
	cluster := snapshot.New([]*v1.Node{tainted}, []*v1.Service{old, web}, admit, nil)
	p, err := settings.Build(Input{Service: web, Options: options.Default(), Cluster: cluster, Running: map[string]bool{"n1": true}})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Conflicts) != 1 || p.Conflicts[0].Port != tcp(80) {
		t.Errorf("conflicts: %v", p.Conflicts)
	}
	if claims := cluster.Claims(tcp(80)); len(claims[0].Nodes) > 0 {
		t.Errorf("the snapshot was changed: %v", claims[0].Nodes)
	}
}

func TestOnlyConflictingPortsAreOmitted(t *testing.T) {
	svc := serviceOfAge("web", 5, "", 80, 443, 8080)
	if withoutPorts(svc, nil) != svc {
		t.Error("the Service is copied without a conflict")
	}
	got := withoutPorts(svc, []Conflict{{Port: tcp(443)}, {Port: udp(80)}})
	if diff := cmp.Diff([]snapshot.Port{tcp(80), tcp(8080)}, snapshot.PortsOf(got)); diff != "" {
		t.Errorf("ports differ (-want +got):\n%s", diff)
	}
	if len(svc.Spec.Ports) != 3 {
		t.Error("the input was changed")
	}
}

func TestEachPortHasOneHolderPerNode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*v1.Node
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			nodes = append(nodes, node(fmt.Sprint("n", i), map[string]string{"i": fmt.Sprint(i)}))
		}
		var services []*v1.Service
		for i := range rapid.IntRange(1, 6).Draw(t, "services") {
			selector := rapid.SampledFrom([]string{"", "i=0", "i!=0", "i in (0,1)", "i=9"}).Draw(t, "selector")
			ports := rapid.SliceOfNDistinct(rapid.SampledFrom([]int32{80, 443}), 1, 2, rapid.ID).Draw(t, "ports")
			services = append(services, serviceOfAge(fmt.Sprint("s", i), rapid.IntRange(0, 2).Draw(t, "age"), selector, ports...))
		}
		holders := map[string][]string{} // By port and node.
		lost := map[string][]Conflict{}
		for _, svc := range services {
			lost[svc.Name] = conflictsOf(t, settings, svc, nodes, services, nil)
			o, _ := options.Parse(svc.Annotations, options.Default())
			for _, port := range snapshot.PortsOf(withoutPorts(svc, lost[svc.Name])) {
				for _, node := range snapshot.SelectNodes(nodes, o) {
					key := port.String() + node.Name
					holders[key] = append(holders[key], svc.Name)
				}
			}
		}
		for key, names := range holders {
			if len(names) > 1 {
				t.Fatalf("%s belongs to %v", key, names)
			}
		}
		for _, svc := range services {
			o, _ := options.Parse(svc.Annotations, options.Default())
			for _, c := range lost[svc.Name] {
				if !slices.ContainsFunc(snapshot.SelectNodes(nodes, o), func(node *v1.Node) bool {
					return len(holders[c.Port.String()+node.Name]) > 0
				}) {
					t.Fatalf("%s lost a port that no Service has: %s", svc.Name, c.Message)
				}
			}
		}
	})
}

func TestAPortOfDrainingProxiesIsUnservedUntilItIsFreeOnANode(t *testing.T) {
	nodes := []*v1.Node{node("n1", nil), node("n2", nil)}
	of := func(service, node string) *v1.Pod {
		return &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{LabelServiceNamespace: "default", LabelServiceName: service}},
			Spec:       v1.PodSpec{NodeName: node},
		}
	}
	for name, c := range map[string]struct {
		proxies []*v1.Pod
		o       map[string]string
		awaited bool
	}{
		"no proxies of other Services":      {},
		"proxies of others on all nodes":    {proxies: []*v1.Pod{of("b", "n2"), of("a", "n1"), of("a", "n2")}, awaited: true},
		"proxies of others on one node":     {proxies: []*v1.Pod{of("a", "n1")}},
		"proxies of others on another node": {proxies: []*v1.Pod{of("a", "n3"), of("a", "n1")}},
		"a Service with datapath direct":    {proxies: []*v1.Pod{of("a", "n1"), of("a", "n2")}, o: map[string]string{options.Datapath: "direct"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := settings.Build(Input{
				Service: service(), Options: parsed(t, c.o), Cluster: snapshot.New(nodes, nil, nil, nil),
				OtherProxies: map[snapshot.Port][]*v1.Pod{tcp(80): c.proxies},
			})
			if err != nil {
				t.Fatal(err)
			}
			var want []Conflict
			if c.awaited {
				want = []Conflict{{tcp(80), PortConflict, "port 80/TCP is served as soon as the proxies of Service default/a, which has given it up, have terminated"}}
			}
			if diff := cmp.Diff(want, p.UnservedPorts()); diff != "" {
				t.Errorf("unserved ports differ (-want +got):\n%s", diff)
			}
			if len(p.Service.Spec.Ports) != 2 {
				t.Errorf("the served ports are %v", snapshot.PortsOf(p.Service))
			}
		})
	}
}
