package plan_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/policy"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// The Services in testdata/gateways are those that gateways and ingress controllers create. Each file
// names the product, the version, and where its source makes the Service.

// gateway reads a Service and sets what the API server would. A larger age makes it older.
func gateway(t *testing.T, name string, age int, annotations map[string]string) *v1.Service {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/gateways", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	svc := &v1.Service{}
	if err := yaml.UnmarshalStrict(data, svc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	svc.UID, svc.CreationTimestamp = types.UID(name), metav1.Time{Time: time.Unix(1_000_000-int64(age), 0)}
	for key, value := range annotations {
		metav1.SetMetaDataAnnotation(&svc.ObjectMeta, key, value)
	}
	spec := &svc.Spec
	spec.ClusterIP = fmt.Sprintf("10.96.0.%d", age)
	spec.ClusterIPs, spec.IPFamilies = []string{spec.ClusterIP}, []v1.IPFamily{v1.IPv4Protocol}
	spec.AllocateLoadBalancerNodePorts = ptr.To(ptr.Deref(spec.AllocateLoadBalancerNodePorts, true))
	for i := range spec.Ports {
		spec.Ports[i].NodePort = int32(30000 + 10*age + i)
	}
	if spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster
	}
	if spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
		spec.HealthCheckNodePort = int32(30009 + 10*age)
	}
	return svc
}

// gatewayCluster has two pools of two nodes.
type gatewayCluster struct {
	services []*v1.Service
	datapath options.DatapathChoice
	held     map[snapshot.Port]map[types.UID]map[string]bool
	pods     map[snapshot.Port][]*v1.Pod
}

func (c gatewayCluster) nodes() []*v1.Node {
	var nodes []*v1.Node
	for i, name := range []string{"a1", "a2", "b1", "b2"} {
		nodes = append(nodes, &v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelOSStable: "linux", "pool": name[:1]}},
			Status:     v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: fmt.Sprintf("10.0.0.%d", i+1)}}},
		})
	}
	return nodes
}

// admit applies the policy of a cloud config without one.
func (c gatewayCluster) admit(svc *v1.Service) (options.Options, error) {
	defaults := options.Default()
	defaults.Datapath = c.datapath
	return policy.Policy{Defaults: defaults, Limits: config.Policy{MaxPorts: 100, MaxSourceRanges: 1000, MaxDrainSeconds: 300}}.Admit(svc)
}

// outcome is what a user sees of a Service: its ports, their nodes, the datapath on bare metal, and
// messages.
func (c gatewayCluster) outcome(t *testing.T, svc *v1.Service) (line string, messages []string) {
	t.Helper()
	o, err := c.admit(svc)
	if err != nil {
		t.Fatalf("%s is refused: %v", svc.Name, err)
	}
	in := plan.Input{
		Service: svc, Options: o, Cluster: snapshot.New(c.nodes(), c.services, c.admit, c.services),
		Held: c.held, ForeignPods: c.pods, Occupants: map[snapshot.Port][]snapshot.Occupant{},
	}
	for _, port := range snapshot.PortsOf(svc) {
		for _, occupant := range in.Cluster.Occupants(port) {
			if occupant.Service.UID != svc.UID {
				in.Occupants[port] = append(in.Occupants[port], occupant)
			}
		}
	}
	var lb config.LoadBalancer
	for _, reserved := range config.DefaultReservedPorts {
		lb.ReservedPorts = append(lb.ReservedPorts, reserved.Ports)
	}
	lb.NodePortRange = "30000-32767"
	p, err := plan.Settings{ClusterID: "alpha", Namespace: "hostport-system", ProxyImage: "proxy:1", Reserved: lb.Reserved()}.Build(in)
	if err != nil {
		t.Fatalf("%s: %v", svc.Name, err)
	}
	for _, conflict := range p.Conflicts {
		messages = append(messages, conflict.Message)
	}
	if p.Service == nil {
		return "nothing", messages
	}
	datapath := "proxy"
	if plan.WantsDirect(svc, o) && (plan.Environment{KubeProxy: config.KubeProxyIPTables}).CheckDirect(svc, o, p.Conflicts) == nil {
		datapath = "direct"
	}
	nodes := slices.DeleteFunc(slices.Sorted(maps.Keys(p.NodeNames)), func(node string) bool { return p.OccupiedNodes[node] })
	return fmt.Sprint(snapshot.PortsOf(p.Service), " on ", nodes, " by ", datapath), append(messages, p.Occupied...)
}

const allPools = " on [a1 a2 b1 b2] by "

func TestGatewaysAreServedAsTheyCome(t *testing.T) {
	const web = "[80/TCP 443/TCP]"
	want := map[string]struct{ ports, auto string }{
		"contour":              {web, "direct"},
		"envoy-gateway":        {http3Ports, "direct"},
		"ingress-nginx":        {web, "proxy"},
		"istio-gateway-api":    {istioPorts, "proxy"},
		"istio-helm":           {istioPorts, "proxy"},
		"nginx-gateway-fabric": {web, "direct"},
		"traefik":              {http3Ports, "proxy"},
	}
	files, err := filepath.Glob("testdata/gateways/*.yaml")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d files, expected %d: %v", len(files), len(want), err)
	}
	for name, w := range want {
		t.Run(name, func(t *testing.T) {
			svc := gateway(t, name, 1, nil)
			for choice, datapath := range map[options.DatapathChoice]string{options.DatapathProxy: "proxy", options.DatapathAuto: w.auto} {
				c := gatewayCluster{services: []*v1.Service{svc}, datapath: choice}
				line, messages := c.outcome(t, svc)
				if diff := cmp.Diff(w.ports+allPools+datapath, line); diff != "" || len(messages) > 0 {
					t.Errorf("datapath %s (-want +got):\n%s\nmessages %q", choice, diff, messages)
				}
				o, _ := c.admit(svc)
				if problems := publish.FieldProblems(svc, o, datapath == "direct"); len(problems) > 0 {
					t.Errorf("problems: %v", problems)
				}
			}
		})
	}
}

func TestFixturesOfGatewaysAreValidServices(t *testing.T) {
	files, err := filepath.Glob("testdata/gateways/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		svc := gateway(t, name, 1, nil)
		problems := append(validation.IsDNS1035Label(svc.Name), validation.IsDNS1123Label(svc.Namespace)...)
		for _, labels := range []map[string]string{svc.Labels, svc.Spec.Selector} {
			for key, value := range labels {
				problems = append(append(problems, validation.IsQualifiedName(key)...), validation.IsValidLabelValue(value)...)
			}
		}
		names := map[string]bool{}
		for _, p := range svc.Spec.Ports {
			problems = append(append(problems, validation.IsDNS1123Label(p.Name)...), validation.IsValidPortNum(int(p.Port))...)
			if target := p.TargetPort.StrVal; target != "" {
				problems = append(problems, validation.IsValidPortName(target)...)
			}
			names[p.Name] = true
		}
		if len(names) != len(svc.Spec.Ports) || len(problems) > 0 {
			t.Errorf("%s: %d names for %d ports; %q", name, len(names), len(svc.Spec.Ports), problems)
		}
	}
}

// outcomes are a line and the messages.
type outcomes struct {
	line     string
	messages []string
}

const istioPorts, http3Ports = "[80/TCP 443/TCP 15021/TCP]", "[80/TCP 443/TCP 443/UDP]"

// taken returns the messages about ports that belong to another Service.
func taken(by string, ports ...string) (messages []string) {
	for _, port := range ports {
		messages = append(messages, fmt.Sprintf("port %s belongs to Service %s on nodes that both select: use another port, or select other nodes by annotation hostport-ccm.io/node-selector", port, by))
	}
	return messages
}

// gatewayConflicts are two Services, of which the first is older, each with the pool that it selects; empty
// means all nodes.
var gatewayConflicts = map[string]struct {
	first, firstPool, second, secondPool string
	// secondHasAll means that the second has its ports already, on all nodes.
	secondHasAll          bool
	wantFirst, wantSecond outcomes
}{
	"two Istio gateways on the same nodes": {
		first: "istio-helm", second: "istio-gateway-api",
		wantFirst:  outcomes{line: istioPorts + allPools + "proxy"},
		wantSecond: outcomes{"nothing", taken("istio-ingress/istio-ingress", "80/TCP", "443/TCP", "15021/TCP")},
	},
	"two Istio gateways on nodes of their own": {
		first: "istio-helm", firstPool: "a", second: "istio-gateway-api", secondPool: "b",
		wantFirst:  outcomes{line: istioPorts + " on [a1 a2] by proxy"},
		wantSecond: outcomes{line: istioPorts + " on [b1 b2] by proxy"},
	},
	"of two Istio gateways only the younger selects nodes": {
		first: "istio-helm", second: "istio-gateway-api", secondPool: "b",
		wantFirst:  outcomes{line: istioPorts + allPools + "proxy"},
		wantSecond: outcomes{"nothing", taken("istio-ingress/istio-ingress", "80/TCP", "443/TCP", "15021/TCP")},
	},
	"Envoy Gateway after Traefik": {
		first: "traefik", second: "envoy-gateway",
		wantFirst:  outcomes{line: http3Ports + allPools + "proxy"},
		wantSecond: outcomes{"nothing", taken("traefik/traefik", "80/TCP", "443/TCP", "443/UDP")},
	},
	"Envoy Gateway keeps what it has, although Traefik is older": {
		first: "traefik", second: "envoy-gateway", secondHasAll: true,
		wantFirst:  outcomes{"nothing", taken("envoy-gateway-system/envoy-web-public-e94008f2", "80/TCP", "443/TCP", "443/UDP")},
		wantSecond: outcomes{line: http3Ports + allPools + "direct"},
	},
	"Envoy Gateway and Traefik on nodes of their own": {
		first: "traefik", firstPool: "a", second: "envoy-gateway", secondPool: "b",
		wantFirst:  outcomes{line: http3Ports + " on [a1 a2] by proxy"},
		wantSecond: outcomes{line: http3Ports + " on [b1 b2] by direct"},
	},
	"a gateway that gets its status port alone is served on that": {
		first: "traefik", second: "istio-helm",
		wantFirst:  outcomes{line: http3Ports + allPools + "proxy"},
		wantSecond: outcomes{"[15021/TCP]" + allPools + "proxy", taken("traefik/traefik", "80/TCP", "443/TCP")},
	},
	"a gateway of policy Local that gets some ports has proxies": {
		first: "nginx-gateway-fabric", second: "envoy-gateway",
		wantFirst:  outcomes{line: "[80/TCP 443/TCP]" + allPools + "direct"},
		wantSecond: outcomes{"[443/UDP]" + allPools + "proxy", taken("web/public-nginx", "80/TCP", "443/TCP")},
	},
}

func TestGatewaysThatWantTheSamePorts(t *testing.T) {
	inPool := func(pool string) map[string]string {
		if pool == "" {
			return nil
		}
		return map[string]string{options.NodeSelector: "pool=" + pool}
	}
	for name, c := range gatewayConflicts {
		t.Run(name, func(t *testing.T) {
			first, second := gateway(t, c.first, 2, inPool(c.firstPool)), gateway(t, c.second, 1, inPool(c.secondPool))
			cluster := gatewayCluster{services: []*v1.Service{second, first}, datapath: options.DatapathAuto}
			if c.secondHasAll {
				cluster.held = map[snapshot.Port]map[types.UID]map[string]bool{}
				for _, port := range snapshot.PortsOf(second) {
					cluster.held[port] = map[types.UID]map[string]bool{second.UID: snapshot.Names(cluster.nodes())}
				}
			}
			for svc, want := range map[*v1.Service]outcomes{first: c.wantFirst, second: c.wantSecond} {
				line, messages := cluster.outcome(t, svc)
				if diff := cmp.Diff(append([]string{want.line}, want.messages...), append([]string{line}, messages...)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", svc.Name, diff)
				}
			}
		})
	}
}

// Of all gateways in one cluster, each port of each node is for one.
func TestAllGatewaysInOneCluster(t *testing.T) {
	var c gatewayCluster
	c.datapath = options.DatapathAuto
	for i, name := range []string{"traefik", "istio-helm", "istio-gateway-api", "envoy-gateway", "nginx-gateway-fabric", "contour", "ingress-nginx"} {
		c.services = append(c.services, gateway(t, name, 9-i, nil))
	}
	got := map[string]string{}
	for _, svc := range c.services {
		got[string(svc.UID)], _ = c.outcome(t, svc)
	}
	want := map[string]string{
		"traefik": http3Ports + allPools + "proxy", "istio-helm": "[15021/TCP]" + allPools + "proxy",
		"istio-gateway-api": "nothing", "envoy-gateway": "nothing", "nginx-gateway-fabric": "nothing", "contour": "nothing", "ingress-nginx": "nothing",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("who has which ports (-want +got):\n%s", diff)
	}
}

// The quick start of Contour gives its Envoy pods the host ports 80 and 443.
func TestContourWithHostPortsOfItsOwn(t *testing.T) {
	envoyOn := func(nodes ...string) map[snapshot.Port][]*v1.Pod {
		pods := map[snapshot.Port][]*v1.Pod{}
		for _, port := range []int32{80, 443} {
			for _, node := range nodes {
				key := snapshot.Port{Protocol: v1.ProtocolTCP, Number: port}
				pods[key] = append(pods[key], &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "projectcontour", Name: "envoy-" + node}, Spec: v1.PodSpec{NodeName: node}})
			}
		}
		return pods
	}
	for name, c := range map[string]struct {
		nodes         []string
		line, message string
	}{
		"on all nodes": {[]string{"a1", "a2", "b1", "b2"}, "nothing", "port 80/TCP is a host port of pods on all nodes that the Service selects, one is projectcontour/envoy-a1"},
		"on one node":  {[]string{"a1"}, "[80/TCP 443/TCP] on [a2 b1 b2] by direct", "node a1 does not serve the Service while pod projectcontour/envoy-a1 has its host port 443/TCP"},
	} {
		t.Run(name, func(t *testing.T) {
			svc := gateway(t, "contour", 1, nil)
			line, messages := gatewayCluster{services: []*v1.Service{svc}, datapath: options.DatapathAuto, pods: envoyOn(c.nodes...)}.outcome(t, svc)
			if line != c.line || len(messages) != 2 || !strings.HasPrefix(messages[0], c.message) {
				t.Errorf("got %s\n%q", line, messages)
			}
		})
	}
}
