package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

var settings = Settings{ClusterID: "alpha", Namespace: "hostport-system", ProxyImage: "proxy:1", ImagePullPolicy: v1.PullIfNotPresent}

const uid = types.UID("0a1b2c3d-0000-4000-8000-000000000001")

func service(change ...func(*v1.Service)) *v1.Service {
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: uid},
		Spec: v1.ServiceSpec{
			Type:       v1.ServiceTypeLoadBalancer,
			ClusterIPs: []string{"10.96.0.7"},
			IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports: []v1.ServicePort{
				{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53},
				{Name: "http", Protocol: v1.ProtocolTCP, Port: 80},
			},
		},
	}
	for _, c := range change {
		c(svc)
	}
	return svc
}

func node(name string, labels map[string]string, taints ...v1.Taint) *v1.Node {
	all := map[string]string{v1.LabelOSStable: "linux"}
	for k, v := range labels {
		all[k] = v
	}
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: all},
		Spec:       v1.NodeSpec{ProviderID: "gce://p/z/" + name, Taints: taints},
	}
}

// build returns the plan of a Service without conflicts.
func build(svc *v1.Service, o options.Options, nodes ...*v1.Node) (*Plan, error) {
	return settings.Build(Input{Service: svc, Options: o, Cluster: snapshot.New(nodes, nil, nil, nil)})
}

func mustBuild(t *testing.T, svc *v1.Service, o options.Options, nodes ...*v1.Node) *Plan {
	t.Helper()
	p, err := build(svc, o, nodes...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mustProxies returns the one proxy set of a new Service.
func mustProxies(t *testing.T, svc *v1.Service, o options.Options) *ProxySet {
	t.Helper()
	return oneSet(mustBuild(t, svc, o))
}

func oneSet(p *Plan) *ProxySet {
	return &p.ProxySets(AssignPorts(snapshot.PortsOf(p.Service), Assignment{}))[0]
}

func parsed(t *testing.T, annotations map[string]string) options.Options {
	t.Helper()
	o, err := options.Parse(annotations, options.Default())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestTheFirewallAllowsEachPortOnTheSelectedNodes(t *testing.T) {
	p := mustBuild(t, service(), options.Default(), node("b", nil), node("a", nil))
	want := firewall.Spec{
		Owner:        firewall.Owner{ClusterID: "alpha", Service: types.NamespacedName{Namespace: "default", Name: "web"}, UID: uid},
		Ports:        []firewall.Port{{Protocol: v1.ProtocolUDP, Port: 53}, {Protocol: v1.ProtocolTCP, Port: 80}},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
		Nodes:        []string{"gce://p/z/a", "gce://p/z/b"},
	}
	if diff := cmp.Diff(want, p.Firewall, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("firewall spec differs (-want +got):\n%s", diff)
	}
}

func TestTheConfigMapHasTheConfigOfTheProxy(t *testing.T) {
	p := mustProxies(t, service(func(svc *v1.Service) {
		svc.Spec.LoadBalancerSourceRanges = []string{" 198.51.100.7/24", "198.51.100.0/24", "2001:db8::/32"}
		svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Port: 53}) // Protocol defaults to TCP.
	}), parsed(t, map[string]string{options.MaxConnectionsPerClient: "100"}))
	got, err := proxyconfig.Parse([]byte(p.ConfigMap.Data[proxyconfig.FileName]))
	if err != nil {
		t.Fatal(err)
	}
	want := proxyconfig.Config{
		Service:      "default/web",
		Ports:        []proxyconfig.Port{{Protocol: "TCP", Port: 53}, {Protocol: "UDP", Port: 53}, {Protocol: "TCP", Port: 80}},
		ClusterIPs:   []string{"10.96.0.7"},
		SourceRanges: []string{"198.51.100.0/24", "2001:db8::/32"},
		DrainSeconds: options.Default().DrainSeconds,

		MaxConnectionsPerClient: 100,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config differs (-want +got):\n%s", diff)
	}
}

// A change that running proxies can apply must not change their template.
func TestAChangeOfTheConfigDoesNotChangeTheDaemonSet(t *testing.T) {
	before := mustProxies(t, service(), options.Default())
	after := mustProxies(t, service(func(svc *v1.Service) {
		svc.Spec.ClusterIPs = []string{"10.96.0.8"}
		svc.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
		svc.Spec.Selector = map[string]string{"app": "other"}
		svc.Spec.Ports[0].Name, svc.Spec.Ports[0].NodePort = "renamed", 30053
		slices.Reverse(svc.Spec.Ports)
		svc.Labels = map[string]string{"x": "y"}
	}), parsed(t, map[string]string{options.MaxNodes: "1", options.NodeAddresses: "internal", options.DrainSeconds: "600", options.MaxConnectionsPerClient: "9"}))
	if diff := cmp.Diff(before.DaemonSet, after.DaemonSet); diff != "" {
		t.Errorf("the DaemonSet changed (-before +after):\n%s", diff)
	}
	if before.ConfigMap.Data[proxyconfig.FileName] == after.ConfigMap.Data[proxyconfig.FileName] {
		t.Error("the ConfigMap did not change")
	}
}

func TestProxiesHaveTheLeastPrivilege(t *testing.T) {
	spec := mustProxies(t, service(), options.Default()).DaemonSet.Spec.Template.Spec
	container := spec.Containers[0]
	want := &v1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		ReadOnlyRootFilesystem:   new(true),
		Capabilities:             &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_ADMIN", "NET_RAW"}},
	}
	if diff := cmp.Diff(want, container.SecurityContext); diff != "" {
		t.Errorf("security context differs (-want +got):\n%s", diff)
	}
	if spec.HostNetwork || *spec.AutomountServiceAccountToken || *spec.EnableServiceLinks || spec.SecurityContext.SeccompProfile.Type != v1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod has more privileges than it needs: %+v", spec)
	}
	if len(spec.Containers) != 1 || len(spec.InitContainers) != 0 || len(container.Resources.Limits) != 2 || len(container.Resources.Requests) != 2 {
		t.Errorf("want one container with requests and limits, got %+v", spec.Containers)
	}
}

func TestNoContainerIsPrivilegedInAUserNamespace(t *testing.T) {
	dual := service(func(svc *v1.Service) {
		svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
		svc.Spec.ClusterIPs = []string{"10.96.0.7", "fd00:96::7"}
	})
	before := mustProxies(t, dual, options.Default()).DaemonSet
	t.Cleanup(func() { settings.UserNamespaces = false })
	settings.UserNamespaces = true
	after := mustProxies(t, dual, options.Default()).DaemonSet
	spec := after.Spec.Template.Spec
	if spec.HostUsers == nil || *spec.HostUsers {
		t.Error("the pod has no user namespace")
	}
	want := &v1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		ReadOnlyRootFilesystem:   new(true),
		Capabilities:             &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_ADMIN"}},
		ProcMount:                new(v1.UnmaskedProcMount),
	}
	if diff := cmp.Diff(want, spec.InitContainers[0].SecurityContext); diff != "" {
		t.Errorf("security context of the init container differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before.Spec.Template.Spec.Containers, spec.Containers); diff != "" {
		t.Errorf("the proxy's container differs (-without +with a user namespace):\n%s", diff)
	}
	if before.Annotations[AnnotationSpecHash] == after.Annotations[AnnotationSpecHash] {
		t.Error("the change replaces no proxies")
	}
}

func TestOnlyTheInitContainerForIPv6IsPrivileged(t *testing.T) {
	dual := service(func(svc *v1.Service) {
		svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
		svc.Spec.ClusterIPs = []string{"10.96.0.7", "fd00:96::7"}
	})
	spec := mustProxies(t, dual, options.Default()).DaemonSet.Spec.Template.Spec
	if len(spec.InitContainers) != 1 {
		t.Fatalf("want one init container, got %+v", spec.InitContainers)
	}
	first := spec.InitContainers[0]
	if first.Image != settings.ProxyImage || !*first.SecurityContext.Privileged || !slices.Equal(first.Args, []string{"--forward-ipv6"}) || len(first.Resources.Limits) != 2 {
		t.Errorf("got %+v", first)
	}
	ipv4 := mustProxies(t, service(), options.Default()).DaemonSet.Spec.Template.Spec.Containers[0]
	flags := len(spec.Containers[0].Args)
	if without := ipv4.Args[flags:]; !slices.Equal(without, []string{proxyconfig.WithoutIPv6}) {
		t.Errorf("a proxy of a Service without IPv6 has the flags %q", ipv4.Args)
	}
	ipv4.Args = ipv4.Args[:flags]
	if diff := cmp.Diff(ipv4, spec.Containers[0]); diff != "" {
		t.Errorf("the proxy container differs in more than its flags (-IPv4 +both):\n%s", diff)
	}
}

func TestOptionsApplyToTheProxies(t *testing.T) {
	o := parsed(t, map[string]string{
		options.PriorityClassName: "high",
		options.Tolerations:       `[{"key":"edge","operator":"Exists"}]`,
		options.NodeSelector:      "pool in (a,b),!slow",
	})
	spec := mustProxies(t, service(), o).DaemonSet.Spec.Template.Spec
	if spec.PriorityClassName != "high" || len(spec.Tolerations) != 1 || spec.Tolerations[0].Key != "edge" {
		t.Errorf("got %+v", spec)
	}
	terms := spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for _, term := range terms {
		want := []v1.NodeSelectorRequirement{
			{Key: "pool", Operator: v1.NodeSelectorOpIn, Values: []string{"a", "b"}},
			{Key: "slow", Operator: v1.NodeSelectorOpDoesNotExist},
		}
		if diff := cmp.Diff(want, term.MatchExpressions[1:3]); diff != "" {
			t.Errorf("requirements differ (-want +got):\n%s", diff)
		}
	}
}

// proxyFlag returns the rest of the argument that begins with a text.
func proxyFlag(container v1.Container, begin string) string {
	for _, arg := range container.Args {
		if rest, found := strings.CutPrefix(arg, begin); found {
			return rest
		}
	}
	return ""
}

func TestTheProbesBringTheTokenOfTheProxy(t *testing.T) {
	svc := service()
	container := mustProxies(t, svc, options.Default()).DaemonSet.Spec.Template.Spec.Containers[0]
	token := proxyFlag(container, "--health-token=")
	if token != string(svc.UID) || token == "" {
		t.Errorf("the proxy's token is %q, want the Service's UID %q", token, svc.UID)
	}
	want := []v1.HTTPHeader{{Name: "Authorization", Value: "Bearer " + token}}
	for _, probe := range []*v1.Probe{container.ReadinessProbe, container.LivenessProbe} {
		if diff := cmp.Diff(want, probe.HTTPGet.HTTPHeaders); diff != "" {
			t.Errorf("headers of the probe of %s (-want +got):\n%s", probe.HTTPGet.Path, diff)
		}
	}
}

func TestTheDaemonSetIsValidForAnyPorts(t *testing.T) {
	port := rapid.Custom(func(t *rapid.T) v1.ServicePort {
		return v1.ServicePort{
			Name:     rapid.StringMatching(`[a-z]{1,63}`).Draw(t, "name"),
			Protocol: rapid.SampledFrom([]v1.Protocol{"", "TCP", "UDP", "SCTP"}).Draw(t, "protocol"),
			Port:     rapid.Int32Range(1, 65535).Draw(t, "port"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		svc := service(func(svc *v1.Service) {
			svc.Spec.Ports = rapid.SliceOfN(port, 1, 100).Draw(t, "ports")
			for _, own := range []int32{proxyconfig.DefaultMetricsPort, proxyconfig.DefaultHealthPort, proxyconfig.DefaultHealthPort + 1} {
				if rapid.Bool().Draw(t, "a port like the proxy's own") {
					svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Port: own})
				}
			}
		})
		p, err := build(svc, options.Default())
		if err != nil {
			t.Fatal(err)
		}
		set := oneSet(p)
		container := set.DaemonSet.Spec.Template.Spec.Containers[0]
		seen := map[string]bool{}
		for _, cp := range container.Ports {
			if seen[cp.Name] || len(validation.IsValidPortName(cp.Name)) > 0 || cp.HostPort != cp.ContainerPort {
				t.Fatalf("invalid container port %+v", cp)
			}
			seen[cp.Name] = true
		}
		metrics, health := proxyFlag(container, "--metrics-address=:"), proxyFlag(container, "--health-address=:")
		probe := container.ReadinessProbe.HTTPGet
		if metrics == health || probe.Port.String() != health || container.LivenessProbe.HTTPGet.Port != probe.Port {
			t.Fatalf("the port for metrics is %s, that for health %s, the probes' %s", metrics, health, probe.Port.String())
		}
		if annotated, found := set.DaemonSet.Spec.Template.Annotations[AnnotationMetricsPort]; found && annotated != metrics || found == (metrics == fmt.Sprint(proxyconfig.DefaultMetricsPort)) {
			t.Fatalf("the port for metrics is %s, and the pod's annotation says %q", metrics, annotated)
		}
		for _, sp := range svc.Spec.Ports {
			if number := fmt.Sprint(sp.Port); number == health || number == metrics {
				t.Fatalf("port %d is a port of the Service and the proxy's own", sp.Port)
			}
		}
		if _, err := proxyconfig.Parse([]byte(set.ConfigMap.Data[proxyconfig.FileName])); err != nil {
			t.Fatalf("the proxy refuses its config: %v", err)
		}
	})
}

func TestNamesAreValidAndDescriptiveAndUnique(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := service(func(svc *v1.Service) {
			// From Kubernetes 1.36 on, the name of a Service may begin with a digit.
			svc.Name = rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`).Draw(t, "name")
		})
		for i, name := range SetNames(svc) {
			if len(validation.IsDNS1035Label(name)) > 0 {
				t.Fatalf("invalid name %q", name)
			}
			if !strings.HasPrefix(name, "hostport-"+svc.Name[:min(len(svc.Name), 10)]) || !strings.HasSuffix(name, []string{"-0a1b2c3d", "-0a1b2c3d-2", "-0a1b2c3d-3"}[i]) {
				t.Fatalf("name %q does not contain the name of Service %q", name, svc.Name)
			}
		}
		for key, value := range settings.setLabels(svc, 1) {
			if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
				t.Fatalf("invalid label %s=%s", key, value)
			}
		}
	})
}

func TestOwnsRecognizesClusterAndService(t *testing.T) {
	svc := service()
	ours := mustProxies(t, svc, options.Default()).DaemonSet
	if !settings.Owns(svc, ours) || ServiceOf(ours) != (types.NamespacedName{Namespace: "default", Name: "web"}) {
		t.Error("an own object is not recognized")
	}
	other := settings
	other.ClusterID = "beta"
	again := service(func(svc *v1.Service) { svc.UID = "other" })
	if other.Owns(svc, ours) || settings.Owns(again, ours) || settings.Owns(svc, &v1.ConfigMap{}) {
		t.Error("an object of another cluster, of another Service, or without labels counts as owned")
	}
}

// Otherwise SIGTERM is lost while the proxy starts.
func TestAProxyIsNotTheFirstProcessOfItsPIDNamespace(t *testing.T) {
	ds := mustProxies(t, service(), options.Default()).DaemonSet
	if shared := ds.Spec.Template.Spec.ShareProcessNamespace; shared == nil || !*shared {
		t.Errorf("shareProcessNamespace is %v", shared)
	}
}
