package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

const minimal = `
apiVersion: hostport-ccm.io/v1alpha1
kind: CloudConfig
clusterID: alpha
provider: gce
loadBalancer:
  proxyImage: example.com/nodeproxy:v1
`

func TestAMinimalConfigGetsDefaults(t *testing.T) {
	got, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := &CloudConfig{
		APIVersion: APIVersion, Kind: Kind, ClusterID: "alpha", Provider: ProviderGCE,
		LoadBalancer: LoadBalancer{
			ProxyImage: "example.com/nodeproxy:v1", ImagePullPolicy: v1.PullIfNotPresent, Namespace: "hostport-system",
			Classes: ClassesBoth, Addresses: options.External, Firewall: firewall.Managed, Datapath: options.DatapathProxy, Failover: FailoverFast,
			NodePortRange: "30000-32767", Policy: Policy{MaxDrainSeconds: 300, MaxPorts: 100, MaxSourceRanges: 1000},
		},
	}
	for _, entry := range DefaultReservedPorts {
		want.LoadBalancer.ReservedPorts = append(want.LoadBalancer.ReservedPorts, entry.Ports)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config differs (-want +got):\n%s", diff)
	}
}

func TestAFullConfigIsReadAsWritten(t *testing.T) {
	want := &CloudConfig{
		APIVersion: APIVersion, Kind: Kind, ClusterID: "beta", Provider: ProviderGCE,
		LoadBalancer: LoadBalancer{
			ProxyImage: "x", ImagePullPolicy: v1.PullNever, Namespace: "elsewhere", Classes: ClassesClass,
			PriorityClassName: "high", Tolerations: []v1.Toleration{{Operator: v1.TolerationOpExists}},
			Addresses: options.Internal, InternalRanges: []string{"10.0.0.0/8", "2001:db8::/32"}, Firewall: firewall.None, IPMode: v1.LoadBalancerIPModeProxy,
			Datapath: options.DatapathAuto, KubeProxyMode: KubeProxyNFTables,
			Failover:      FailoverKubernetes,
			ReservedPorts: []string{"23", "8000-8010/UDP"}, NodePortRange: "none",
			Policy: Policy{
				PriorityClassNames: []string{"edge"}, TolerationKeys: []string{"example.com/edge"}, MaxDrainSeconds: 3600, MaxPorts: 10, MaxSourceRanges: 5000, MaxServicesPerNamespace: 5,
				Ports:            []NamespacePorts{{Ports: []string{"80/TCP", "443"}, Namespaces: []string{"ingress"}}},
				DirectNamespaces: []string{"a"}, FirewallNamespaces: []string{"b"},
			},
		},
		GCE: GCE{
			Project: "p", NetworkProject: "np", Network: "n", NodeTags: []string{"node"},
			APIEndpoint: "http://127.0.0.1:8080", InstanceCacheTTL: metav1.Duration{Duration: 5 * time.Second},
			FirewallLayout: firewall.Shared, FirewallCheckPeriod: metav1.Duration{Duration: time.Minute},
		},
	}
	data, err := yaml.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config differs (-want +got):\n%s", diff)
	}
	defaults := got.Options()
	if got := fmt.Sprint(defaults.InternalRanges); got != "[10.0.0.0/8 2001:db8::/32]" {
		t.Errorf("internal ranges: %s", got)
	}
	if defaults.Addresses != options.Internal || defaults.PriorityClassName != "high" || len(defaults.Tolerations) != 1 || defaults.Firewall != firewall.None ||
		defaults.Datapath != options.DatapathAuto {
		t.Errorf("the options do not have the defaults of the config: %+v", defaults)
	}
}

func TestWithoutACloudInternalAddressesServeNodesWithoutExternalOnes(t *testing.T) {
	got, err := Parse([]byte(strings.Replace(minimal, "provider: gce", "provider: none", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got.LoadBalancer.Addresses != options.ExternalOrInternal {
		t.Errorf("addresses: got %q", got.LoadBalancer.Addresses)
	}
}

func TestAnInvalidConfigIsReportedInOneLineWithTheField(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		want     []string
	}{
		"a mistyped field":                        {"clusterID:", "clusterId:", []string{`unknown field "clusterId"`, `did you mean "clusterID"?`}},
		"a mistyped inner field":                  {"proxyImage:", "proxyimage:", []string{`"loadBalancer.proxyimage"`, `did you mean "proxyImage"?`}},
		"a mistyped field of a list element":      {"loadBalancer:", "loadBalancer:\n  tolerations: [{operater: Exists}]", []string{`operater`, `did you mean "operator"?`}},
		"an unknown field without a similar name": {"provider:", "zzz: 1\nprovider:", []string{`unknown field "zzz"`}},
		"a duplicate field":                       {"provider: gce", "provider: gce\nprovider: none", []string{`"provider" already set`}},
		"invalid YAML":                            {"kind:", "\tkind:", []string{"line 3"}},
		"a field of the wrong type":               {"provider: gce", "provider: [gce]", []string{"provider: expected a string, not array"}},
		"a string that YAML reads as a bool":      {"loadBalancer:", "gce: {network: n}\nloadBalancer:", []string{"gce.network: expected a string, not bool", "quote"}},
		"a string in place of fields":             {"loadBalancer:", "gce: p\nloadBalancer:", []string{"gce: expected fields, not string"}},
		"another version":                         {"v1alpha1", "v2", []string{"apiVersion", "hostport-ccm.io/v1alpha1"}},
		"another kind":                            {"CloudConfig", "Cloud", []string{"kind", "CloudConfig"}},
		"no cluster id":                           {"clusterID: alpha", "", []string{"clusterID", "DNS label"}},
		"a cluster id too long":                   {"clusterID: alpha", "clusterID: " + strings.Repeat("a", 27), []string{"clusterID", "26"}},
		"a cluster id that is no DNS label":       {"clusterID: alpha", "clusterID: Alpha_1", []string{"clusterID", "Alpha_1"}},
		"an unknown provider":                     {"provider: gce", "provider: aws", []string{"provider", "aws", "gce, none"}},
		"no proxy image":                          {"proxyImage: example.com/nodeproxy:v1", "classes: both", []string{"loadBalancer.proxyImage"}},
		"an unknown value of classes":             {"loadBalancer:", "loadBalancer:\n  classes: all", []string{"loadBalancer.classes", "both, class, none"}},
		"an unknown value of addresses":           {"loadBalancer:", "loadBalancer:\n  addresses: public", []string{"loadBalancer.addresses", "external-or-internal"}},
		"an invalid internal range":               {"loadBalancer:", "loadBalancer:\n  internalRanges: [10.0.0.1]", []string{"loadBalancer.internalRanges", `"10.0.0.1"`, "CIDR"}},
		"no internal range":                       {"loadBalancer:", "loadBalancer:\n  internalRanges: []", []string{"loadBalancer.internalRanges", "empty", "10.0.0.0/8"}},
		"an invalid toleration":                   {"loadBalancer:", "loadBalancer:\n  tolerations: [{value: a}]", []string{"loadBalancer.tolerations", "toleration 1"}},
		"an unknown pull policy":                  {"loadBalancer:", "loadBalancer:\n  imagePullPolicy: Sometimes", []string{"loadBalancer.imagePullPolicy"}},
		"an unknown ip mode":                      {"loadBalancer:", "loadBalancer:\n  ipMode: vip", []string{"loadBalancer.ipMode", "VIP, Proxy"}},
		"an unknown datapath":                     {"loadBalancer:", "loadBalancer:\n  datapath: mirror", []string{"loadBalancer.datapath", "proxy, direct, auto"}},
		"an unknown kube-proxy mode":              {"loadBalancer:", "loadBalancer:\n  kubeProxyMode: userspace", []string{"loadBalancer.kubeProxyMode", "iptables, nftables, ipvs, none"}},
		"an unknown failover mode":                {"loadBalancer:", "loadBalancer:\n  failover: 5s", []string{"loadBalancer.failover", "fast, kubernetes"}},
		"an invalid reserved port":                {"loadBalancer:", "loadBalancer:\n  reservedPorts: [\"80-70\"]", []string{"loadBalancer.reservedPorts", "80-70", `"2379-2380/TCP"`}},
		"a reserved port of no protocol":          {"loadBalancer:", "loadBalancer:\n  reservedPorts: [\"53/dns\"]", []string{"loadBalancer.reservedPorts", "53/dns", `"8472/UDP"`}},
		"an invalid range of node ports":          {"loadBalancer:", "loadBalancer:\n  nodePortRange: all", []string{"loadBalancer.nodePortRange", "all", "30000-32767, or none"}},
		"node ports of one protocol":              {"loadBalancer:", "loadBalancer:\n  nodePortRange: 30000-32767/TCP", []string{"loadBalancer.nodePortRange", "30000-32767, or none"}},
		"a reserved port without quotes":          {"loadBalancer:", "loadBalancer:\n  reservedPorts: [22]", []string{"loadBalancer.reservedPorts", "expected a string", "quote"}},
		"an invalid class in the policy":          {"loadBalancer:", "loadBalancer:\n  policy: {priorityClassNames: [High]}", []string{"loadBalancer.policy.priorityClassNames", "High"}},
		"an invalid key in the policy":            {"loadBalancer:", "loadBalancer:\n  policy: {tolerationKeys: [a b]}", []string{"loadBalancer.policy.tolerationKeys", "a b"}},
		"too long a drain in the policy":          {"loadBalancer:", "loadBalancer:\n  policy: {maxDrainSeconds: 3601}", []string{"loadBalancer.policy.maxDrainSeconds", "from 1 to 3600"}},
		"a negative number of ports":              {"loadBalancer:", "loadBalancer:\n  policy: {maxPorts: -1}", []string{"loadBalancer.policy.maxPorts", "-1"}},
		"too many source ranges":                  {"loadBalancer:", "loadBalancer:\n  policy: {maxSourceRanges: 5001}", []string{"loadBalancer.policy.maxSourceRanges", "from 1 to 5000"}},
		"a negative number of Services":           {"loadBalancer:", "loadBalancer:\n  policy: {maxServicesPerNamespace: -1}", []string{"loadBalancer.policy.maxServicesPerNamespace", "-1"}},
		"an invalid port in the policy":           {"loadBalancer:", "loadBalancer:\n  policy: {ports: [{ports: [https], namespaces: [a]}]}", []string{"loadBalancer.policy.ports[0].ports", "https"}},
		"no port in an entry of the policy":       {"loadBalancer:", "loadBalancer:\n  policy: {ports: [{namespaces: [a]}]}", []string{"loadBalancer.policy.ports[0].ports", "empty"}},
		"an invalid namespace in the policy":      {"loadBalancer:", "loadBalancer:\n  policy: {ports: [{ports: [\"80\"], namespaces: [\"*\"]}]}", []string{"loadBalancer.policy.ports[0].namespaces", "*"}},
		"an invalid namespace for direct":         {"loadBalancer:", "loadBalancer:\n  policy: {directNamespaces: [A]}", []string{"loadBalancer.policy.directNamespaces", "A"}},
		"an invalid namespace for the firewall":   {"loadBalancer:", "loadBalancer:\n  policy: {firewallNamespaces: [A]}", []string{"loadBalancer.policy.firewallNamespaces", "A"}},
		"a mistyped field of the policy":          {"loadBalancer:", "loadBalancer:\n  policy: {maxPort: 1}", []string{"loadBalancer.policy.maxPort", `did you mean "maxPorts"?`}},
		"an invalid endpoint":                     {"loadBalancer:", "gce: {apiEndpoint: localhost}\nloadBalancer:", []string{"gce.apiEndpoint", "localhost"}},
		"an invalid tag":                          {"loadBalancer:", "gce: {nodeTags: [A]}\nloadBalancer:", []string{"gce.nodeTags", `"A"`}},
		"an unknown firewall mode":                {"loadBalancer:", "loadBalancer:\n  firewall: open", []string{"loadBalancer.firewall", "managed, report, none"}},
		"an unknown firewall layout":              {"loadBalancer:", "gce: {firewallLayout: one}\nloadBalancer:", []string{"gce.firewallLayout", "per-service, shared"}},
		"a negative check period":                 {"loadBalancer:", "gce: {firewallCheckPeriod: -1s}\nloadBalancer:", []string{"gce.firewallCheckPeriod", "-1s"}},
		"a duration without unit":                 {"loadBalancer:", "gce: {instanceCacheTTL: \"5\"}\nloadBalancer:", []string{"missing unit"}},
		"settings of gce with another provider":   {"provider: gce", "provider: none\ngce: {project: p}", []string{"gce", "provider none"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "cloud.yaml")
			if err := os.WriteFile(file, []byte(strings.Replace(minimal, c.old, c.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(file)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, part := range append(c.want, file) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in: %v", part, err)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestAMissingFileIsNamed(t *testing.T) {
	for path, want := range map[string]string{"": "--cloud-config", "/nonexistent/c.yaml": "/nonexistent/c.yaml"} {
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("path %q: got %v", path, err)
		}
	}
}

func TestClassesSelectServices(t *testing.T) {
	ourClass, foreignClass := LoadBalancerClass, "example.com/other"
	for _, c := range []struct {
		classes              Classes
		unset, ours, foreign bool
	}{
		{ClassesBoth, true, true, false},
		{ClassesClass, false, true, false},
		{ClassesNone, true, false, false},
	} {
		if c.classes.Serves(nil) != c.unset || c.classes.Serves(&ourClass) != c.ours || c.classes.Serves(&foreignClass) != c.foreign {
			t.Errorf("classes %s select the wrong Services", c.classes)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(`{"loadBalancer": {"tolerations": [{"x": 1}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse(data)
		if err == nil && (cfg.ClusterID == "" || cfg.LoadBalancer.ProxyImage == "") {
			t.Errorf("accepted without required fields: %q", data)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	})
}
