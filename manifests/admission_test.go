package manifests

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/policy"
)

const admissionName = "hostport-ccm-admission"

// defaultSettings returns the settings of the policy in settings.yaml.
func defaultSettings(t *testing.T) map[string]string {
	t.Helper()
	return maps.Clone(named(t, admissionName, of[*v1.ConfigMap](t)).Data)
}

// replacedSetting is the part of a path in a policy that kustomize replaces by a setting.
var replacedSetting = regexp.MustCompile(`^spec\.(variables|matchConditions)\.\[name=([\w-]+)\]\.expression$`)

// admissionPolicy compiles the policy with some settings.
func admissionPolicy(t *testing.T, settings map[string]string) validating.Validator {
	t.Helper()
	return compile(t, policyWith(t, settings))
}

// policyWith returns the policy with some settings, as kustomize writes them into it.
func policyWith(t *testing.T, settings map[string]string) *admissionv1.ValidatingAdmissionPolicy {
	t.Helper()
	p := named(t, admissionName, of[*admissionv1.ValidatingAdmissionPolicy](t)).DeepCopy()
	text, err := os.ReadFile("components/admission/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Replacements []struct {
			Source  struct{ FieldPath string }
			Targets []struct {
				FieldPaths []string
				Options    struct {
					Delimiter string
					Index     int
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	expressions := map[string]*string{}
	for i := range p.Spec.Variables {
		expressions["variables "+p.Spec.Variables[i].Name] = &p.Spec.Variables[i].Expression
	}
	for i := range p.Spec.MatchConditions {
		expressions["matchConditions "+p.Spec.MatchConditions[i].Name] = &p.Spec.MatchConditions[i].Expression
	}
	replaced := map[string]string{}
	for _, r := range file.Replacements {
		key := strings.TrimPrefix(r.Source.FieldPath, "data.")
		target := r.Targets[0]
		path := replacedSetting.FindStringSubmatch(target.FieldPaths[0])
		expression := expressions[strings.Join(path[1:], " ")]
		parts := strings.Split(*expression, target.Options.Delimiter)
		parts[target.Options.Index] = settings[key]
		*expression, replaced[key] = strings.Join(parts, target.Options.Delimiter), settings[key]
	}
	if diff := cmp.Diff(settings, replaced); diff != "" {
		t.Fatalf("settings that kustomize writes into the policy (-want +got):\n%s", diff)
	}
	return p
}

// admissionConfig is a cloud config, and the settings of the policy that are equal to it.
type admissionConfig struct {
	lb       config.LoadBalancer
	settings map[string]string
}

// admissionConfigs returns the default, and a strict config.
func admissionConfigs(t *testing.T) map[string]admissionConfig {
	t.Helper()
	parse := func(lb string) config.LoadBalancer {
		cfg, err := config.Parse([]byte("{apiVersion: hostport-ccm.io/v1alpha1, kind: CloudConfig, clusterID: c, provider: none, loadBalancer: {proxyImage: p" + lb + "}}"))
		if err != nil {
			t.Fatal(err)
		}
		return cfg.LoadBalancer
	}
	strict := map[string]string{
		"classes": "both", "firewall": "report", "nodePortRange": "20000-20100", "reservedPorts": "22/TCP SSH\n53 DNS: resolvers and DNS caches on the nodes\n\n7000-7001/UDP\n",
		"maxDrainSeconds": "60", "maxPorts": "3", "maxSourceRanges": "2", "priorityClassNames": "edge", "directNamespaces": "network x", "firewallNamespaces": "",
		"ports": "80/TCP ingress\n443-445 ingress apps\n",
	}
	return map[string]admissionConfig{
		"default": {parse(""), defaultSettings(t)},
		"strict": {parse(`, firewall: report, nodePortRange: 20000-20100, reservedPorts: ["22/TCP", "53", "7000-7001/UDP"], policy: {
			maxDrainSeconds: 60, maxPorts: 3, maxSourceRanges: 2, priorityClassNames: [edge], directNamespaces: [network, x], firewallNamespaces: [],
			ports: [{ports: [80/TCP], namespaces: [ingress]}, {ports: [443-445], namespaces: [ingress, apps]}]}`), strict},
	}
}

func admissionService(namespace string, annotations map[string]string, ports ...v1.ServicePort) *v1.Service {
	if len(ports) == 0 {
		ports = []v1.ServicePort{{Port: 8080}}
	}
	return &v1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", Annotations: annotations},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.7", Ports: ports},
	}
}

// admissionValues are values of annotations, valid and not, beyond the limits and at them.
var admissionValues = map[string][]string{
	options.MaxNodes:                {"1", "003", "2147483647", "", "0", "000", "-1", "+1", "2147483648", "99999999999", "1.5", "many", " 1", "1 ", strings.Repeat("0", 4096) + "1"},
	options.MaxConnectionsPerClient: {"1", "064512", "64512", "64513", "0", "", "-1", "many", strings.Repeat("9", 30)},
	options.NodeAddresses:           {"external", "internal", "external-or-internal", "", "External", "public", "internal "},
	options.Firewall:                {"managed", "report", "none", "", "open", "None"},
	options.Datapath:                {"proxy", "direct", "auto", "", "mirror", "Proxy"},
	options.DrainSeconds:            {"0", "3", "0060", "60", "61", "300", "301", "3600", "3601", "99999", "-1", "+1", "30s", "", "3.0", strings.Repeat("9", 30)},
	options.PriorityClassName: {
		"edge", "high", "a.b-c", "system-node-critical", "system-", "High", "", "-a", "a-", "a..b", "a b", "edge edge", strings.Repeat("a", 253), strings.Repeat("a", 254), strings.Repeat("ä", 300),
	},
	options.NodeSelector: {
		"", " ", "a", "!a", "! a ", "a=b", "a==b", "a != b", "a=", "a in (b)", "a in (b,c)", "a notin ( b , c )", "a in (,b)", "a in (b,)", "in in (in)", "a>3", "a < 4", "x.y/a=b,!c",
		"a=b,c!=d,e in (f,g),!h,i,j>3", "a=b=c", "a=b,", ",a", "a,,b", "a b", "=b", "a/b/c", "-a", "a-", "a=-b", "a==b==c", "A.b/c", "a@b", "!", "a=!b", "a!b", "a\tb", "é=1",
		strings.Repeat("a,", 99) + "a", strings.Repeat("a,", 100) + "a", "a=" + strings.Repeat("b", 63), "a=" + strings.Repeat("b", 64), strings.Repeat("a", 63), strings.Repeat("a", 64),
		strings.Repeat("ab,", 1365) + "a", strings.Repeat("x y", 80_000),
	},
	options.Tolerations:        {"[]", "[{key: a}]", strings.Repeat(" ", 4096) + "[]"},
	options.Prefix + "maxnode": {"1"},
	options.Prefix:             {""},
	"example.com/max-nodes":    {"many"},
}

func TestTheAdmissionPolicyRefusesWhatTheControllerRefuses(t *testing.T) {
	cases := 0
	for _, annotation := range options.Known() {
		if len(admissionValues[annotation]) == 0 {
			t.Errorf("there are no cases of annotation %s", annotation)
		}
	}
	for name, c := range admissionConfigs(t) {
		validator := admissionPolicy(t, c.settings)
		p := policy.Policy{Defaults: options.Default(), Limits: c.lb.Policy}
		p.Defaults.Firewall = c.lb.Firewall
		check := func(svc *v1.Service) {
			t.Helper()
			cases++
			want := controllerRefusals(p, c.lb.Reserved(), svc)
			got := refusals(t, validator, nil, serviceWrite{svc: svc})
			if (len(got) == 0) != (want == "") {
				t.Errorf("config %s, annotations %.200q, ports %v in %s:\npolicy:     %.300q\ncontroller: %.300s", name, fmt.Sprint(svc.Annotations), svc.Spec.Ports, svc.Namespace, got, want)
			}
			for _, message := range got {
				// The controller adds a library's error to a selector that it cannot read.
				if message = strings.TrimSuffix(message, ")"); !strings.Contains(want, message) {
					t.Errorf("config %s: the policy says\n%s\nand the controller\n%s", name, message, want)
				}
			}
		}
		for _, annotation := range slices.Sorted(maps.Keys(admissionValues)) {
			for _, value := range admissionValues[annotation] {
				for _, namespace := range []string{"network", "apps"} {
					check(admissionService(namespace, map[string]string{annotation: value}))
				}
			}
		}
		for _, protocol := range []v1.Protocol{"", v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP} {
			for _, port := range []int32{1, 22, 53, 80, 179, 443, 445, 446, 2380, 4240, 6443, 7001, 8472, 10250, 19999, 20000, 20100, 20101, 29999, 30000, 32767, 32768, 51871, 65535} {
				for _, namespace := range []string{"ingress", "apps", "80"} {
					check(admissionService(namespace, nil, v1.ServicePort{Protocol: protocol, Port: port}))
				}
			}
		}
		for _, n := range []int32{3, 4, 100, 101, 5000} {
			var ports []v1.ServicePort
			for i := range n {
				ports = append(ports, v1.ServicePort{Port: 11000 + i})
			}
			check(admissionService("apps", nil, ports...))
		}
		check(admissionService("apps", nil, v1.ServicePort{Port: 53}, v1.ServicePort{Port: 8080}, v1.ServicePort{Port: 22}))
		for _, n := range []int{2, 3, 1000, 1001} {
			svc := admissionService("apps", nil)
			svc.Spec.LoadBalancerSourceRanges = slices.Repeat([]string{"192.0.2.0/24"}, n)
			check(svc)
		}
	}
	t.Logf("%d cases", cases)
}

// controllerRefusals returns what the controller reports about a Service, in one text.
func controllerRefusals(p policy.Policy, reserved config.Reserved, svc *v1.Service) string {
	all := options.Unknown(svc.Annotations)
	for i, sentence := range all { // The policy lists the known annotations in place of the nearest.
		name, _, _ := strings.Cut(sentence, ",")
		if strings.Contains(sentence, "did you mean") {
			all[i] = name + "; known are " + strings.ReplaceAll(strings.Join(options.Known(), ", "), options.Prefix, "")
		}
	}
	if _, err := p.Admit(svc); err != nil {
		all = append(all, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	var ports []string
	for _, port := range svc.Spec.Ports {
		protocol := port.Protocol
		if protocol == "" {
			protocol = v1.ProtocolTCP
		}
		if why := reserved.Refusal(protocol, port.Port); why != "" {
			ports = append(ports, fmt.Sprintf("port %d/%s %s", port.Port, protocol, why))
		}
	}
	return strings.Join(append(all, strings.Join(ports, "; ")), "; ")
}

// The policy may be less strict where CEL cannot read what a user writes, never stricter.
func TestTheAdmissionPolicyLeavesSomeFaultsToTheController(t *testing.T) {
	c := admissionConfigs(t)["default"]
	validator := admissionPolicy(t, c.settings)
	p := policy.Policy{Defaults: options.Default(), Limits: c.lb.Policy}
	for annotation, values := range map[string][]string{
		options.Tolerations: {"{}", "[{operator: Exists}]", `[{"key": "a b"}]`, "[" + strings.Repeat("{key: a},", 51) + "]"},
		options.NodeSelector: {
			"a in (b", "a in (-)", "a>b", "a>1.5", strings.Repeat("a", 254) + "/b=c",
		},
	} {
		for _, value := range values {
			svc := admissionService("apps", map[string]string{annotation: value})
			if _, err := p.Admit(svc); err == nil {
				t.Errorf("the controller admits %.100q", value)
			}
			if got := refusals(t, validator, nil, serviceWrite{svc: svc}); len(got) > 0 {
				t.Errorf("the policy refuses %.100q: list it with what both refuse", value)
			}
		}
	}
}

func TestTheAdmissionPolicyRefusesNoSelectorThatTheControllerReads(t *testing.T) {
	validator := admissionPolicy(t, defaultSettings(t))
	part := rapid.SampledFrom([]string{"a", "in", "notin", "b.c/d", "1", "-", "_", ".", "/", "=", "==", "!=", "!", "(", ")", ",", ">", "<", " ", "\t", "\n", "é"})
	rapid.Check(t, func(r *rapid.T) {
		value := strings.Join(rapid.SliceOfN(part, 0, 9).Draw(r, "parts"), "")
		svc := admissionService("apps", map[string]string{options.NodeSelector: value})
		if _, err := options.Parse(svc.Annotations, options.Default()); err == nil {
			if got := refusals(t, validator, nil, serviceWrite{svc: svc}); len(got) > 0 {
				r.Fatalf("%q: %s", value, got)
			}
		}
	})
}

func TestTheAdmissionPolicyChecksOnlyWhatARequestWrites(t *testing.T) {
	settings := defaultSettings(t)
	bad := map[string]string{options.MaxNodes: "many", options.Prefix + "x": "y"}
	old := admissionService("apps", bad, v1.ServicePort{Port: 53}, v1.ServicePort{Port: 80})
	edit := func(change func(*v1.Service)) *v1.Service { svc := old.DeepCopy(); change(svc); return svc }
	clusterIP := edit(func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
	manyPorts := edit(func(svc *v1.Service) {
		svc.Spec.Ports = nil
		for i := range int32(200) {
			svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Port: 11000 + i})
		}
	})
	now := metav1.Now()
	other, ours := "example.com/other", config.LoadBalancerClass
	for name, c := range map[string]struct {
		old, svc *v1.Service
		classes  string
		refused  int
	}{
		"a new Service":                           {nil, old, "both", 3},
		"a new Service of our class":              {nil, edit(func(svc *v1.Service) { svc.Spec.LoadBalancerClass = &ours }), "class", 3},
		"a new Service of our class, not served":  {nil, edit(func(svc *v1.Service) { svc.Spec.LoadBalancerClass = &ours }), "none", 0},
		"a new Service without a class, not ours": {nil, old, "class", 0},
		"a new Service of another class":          {nil, edit(func(svc *v1.Service) { svc.Spec.LoadBalancerClass = &other }), "both", 0},
		"a new Service of another type":           {nil, clusterIP, "both", 0},
		"another label":                           {old, edit(func(svc *v1.Service) { svc.Labels = map[string]string{"a": "b"} }), "both", 0},
		"another valid annotation":                {old, edit(func(svc *v1.Service) { svc.Annotations[options.Datapath] = "auto" }), "both", 0},
		"another invalid annotation":              {old, edit(func(svc *v1.Service) { svc.Annotations[options.Datapath] = "mirror" }), "both", 1},
		"another invalid value":                   {old, edit(func(svc *v1.Service) { svc.Annotations[options.MaxNodes] = "all" }), "both", 1},
		"an invalid annotation is removed":        {old, edit(func(svc *v1.Service) { delete(svc.Annotations, options.MaxNodes) }), "both", 0},
		"another target port":                     {old, edit(func(svc *v1.Service) { svc.Spec.Ports[0].TargetPort.IntVal = 5353 }), "both", 0},
		"another port":                            {old, edit(func(svc *v1.Service) { svc.Spec.Ports[1].Port = 22 }), "both", 1},
		"another protocol":                        {old, edit(func(svc *v1.Service) { svc.Spec.Ports[0].Protocol = v1.ProtocolUDP }), "both", 1},
		"a Service becomes a load balancer":       {clusterIP, old, "both", 3},
		"a Service that is being deleted":         {old, edit(func(svc *v1.Service) { svc.DeletionTimestamp = &now; svc.Annotations[options.MaxNodes] = "all" }), "both", 0},
		"a load balancer becomes something else":  {old, clusterIP, "both", 0},
		"another port of a Service with too many": {manyPorts, edit(func(svc *v1.Service) { svc.Spec.Ports = slices.Clone(manyPorts.Spec.Ports); svc.Spec.Ports[0].Port = 5 }), "both", 0},
		"more ports of a Service with too many": {manyPorts, edit(func(svc *v1.Service) {
			svc.Spec.Ports = append(slices.Clone(manyPorts.Spec.Ports), v1.ServicePort{Port: 9})
		}), "both", 1},
		"the finalizers of a Service with a fault": {old, edit(func(svc *v1.Service) { svc.Finalizers = []string{"a/b"} }), "both", 0},
	} {
		t.Run(name, func(t *testing.T) {
			settings["classes"] = c.classes
			validator := admissionPolicy(t, settings)
			if got := refusals(t, validator, nil, serviceWrite{old: c.old, svc: c.svc}); len(got) != c.refused {
				t.Errorf("got %q, want %d messages", got, c.refused)
			}
		})
	}
}

// The API server refuses what costs too much to evaluate.
func TestTheAdmissionPolicyCanBeEvaluatedForManyPorts(t *testing.T) {
	settings := defaultSettings(t)
	settings["maxPorts"], settings["ports"] = "65535", strings.Repeat("1-70 ingress apps\n", 30)
	validator := admissionPolicy(t, settings)
	for _, n := range []int32{200, 5000} {
		var ports, others []v1.ServicePort
		for i := range n {
			ports = append(ports, v1.ServicePort{Port: 11000 + i, Protocol: v1.ProtocolTCP})
			others = append(others, v1.ServicePort{Port: 17000 + i, Protocol: v1.ProtocolTCP})
		}
		for _, old := range []*v1.Service{nil, admissionService("apps", nil, others...)} {
			if got := refusals(t, validator, nil, serviceWrite{old: old, svc: admissionService("apps", nil, ports...)}); len(got) > 0 {
				t.Errorf("%d ports: got %q", n, got)
			}
		}
	}
}

func TestTheSettingsOfTheAdmissionPolicyAreTheDefaults(t *testing.T) {
	lb, data := admissionConfigs(t)["default"].lb, defaultSettings(t)
	var reserved strings.Builder
	for _, entry := range config.DefaultReservedPorts {
		fmt.Fprintln(&reserved, entry.Ports, entry.Reason)
	}
	want := map[string]string{
		"classes": string(lb.Classes), "firewall": string(firewall.Managed), "nodePortRange": lb.NodePortRange, "reservedPorts": reserved.String(),
		"maxDrainSeconds": fmt.Sprint(lb.Policy.MaxDrainSeconds), "maxPorts": fmt.Sprint(lb.Policy.MaxPorts), "maxSourceRanges": fmt.Sprint(lb.Policy.MaxSourceRanges),
		"priorityClassNames": "*", "directNamespaces": "*", "firewallNamespaces": "*", "ports": "",
	}
	if diff := cmp.Diff(want, data); diff != "" {
		t.Errorf("settings (-default +settings.yaml):\n%s", diff)
	}
}
