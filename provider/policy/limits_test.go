package policy

import (
	"errors"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// ports sets TCP ports.
func ports(numbers ...int32) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.Ports = nil
		for _, number := range numbers {
			svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Port: number})
		}
	}
}

// ranges sets source ranges, which are one when merged.
func ranges(n int) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = slices.Repeat([]string{"192.0.2.0/24"}, n) }
}

func both(a, b func(*v1.Service)) func(*v1.Service) {
	return func(svc *v1.Service) { a(svc); b(svc) }
}

// defaultLimits are those of a cloud config that sets none.
func defaultLimits(t *testing.T) config.Policy {
	t.Helper()
	cfg, err := config.Parse([]byte("{apiVersion: hostport-ccm.io/v1alpha1, kind: CloudConfig, clusterID: c, provider: none, loadBalancer: {proxyImage: p}}"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg.LoadBalancer.Policy
}

func TestLimitsRefuseWhatIsOutsideOfThem(t *testing.T) {
	web := config.NamespacePorts{Ports: []string{"80/TCP", "443"}, Namespaces: []string{"ingress"}}
	also := config.NamespacePorts{Ports: []string{"443-444/TCP"}, Namespaces: []string{"apps"}}
	many := make([]int32, 101)
	for i := range many {
		many[i] = int32(i + 1)
	}
	keyless := `[{"key":"a"},{"operator":"Exists"}]`
	for name, c := range map[string]struct {
		set    func(*config.Policy)
		change func(*v1.Service)
		want   []string // Empty: it is admitted.
	}{
		"a system class by default":            {nil, annotated(options.PriorityClassName, "system-node-critical"), []string{options.PriorityClassName, "system-node-critical", "policy.priorityClassNames"}},
		"another class by default":             {nil, annotated(options.PriorityClassName, "high"), nil},
		"a system class that is listed":        {func(p *config.Policy) { p.PriorityClassNames = []string{"system-node-critical"} }, annotated(options.PriorityClassName, "system-node-critical"), nil},
		"a class that is not listed":           {func(p *config.Policy) { p.PriorityClassNames = []string{"edge"} }, annotated(options.PriorityClassName, "high"), []string{`"high"`, "policy.priorityClassNames"}},
		"no class is allowed":                  {func(p *config.Policy) { p.PriorityClassNames = []string{} }, annotated(options.PriorityClassName, "high"), []string{`"high"`}},
		"no class is allowed, and none named":  {func(p *config.Policy) { p.PriorityClassNames = []string{} }, annotated(), nil},
		"a toleration with a key":              {nil, annotated(options.Tolerations, `[{"key":"a","operator":"Exists"}]`), nil},
		"a toleration of all taints":           {nil, annotated(options.Tolerations, keyless), []string{options.Tolerations, "toleration 2 has no key"}},
		"a toleration of all with listed keys": {func(p *config.Policy) { p.TolerationKeys = []string{"a"} }, annotated(options.Tolerations, keyless), []string{"toleration 2 has no key"}},
		"a key that is not listed":             {func(p *config.Policy) { p.TolerationKeys = []string{"a"} }, annotated(options.Tolerations, `[{"key":"b"}]`), []string{`key "b" of toleration 1`, "policy.tolerationKeys"}},
		"the longest drain":                    {nil, annotated(options.DrainSeconds, "300"), nil},
		"a longer drain":                       {nil, annotated(options.DrainSeconds, "301"), []string{options.DrainSeconds, "more than 300", "policy.maxDrainSeconds"}},
		"a longer drain that is allowed":       {func(p *config.Policy) { p.MaxDrainSeconds = 3600 }, annotated(options.DrainSeconds, "3600"), nil},
		"as many ports as possible":            {nil, ports(many[:100]...), nil},
		"too many ports":                       {nil, ports(many...), []string{"101 ports, more than 100", "policy.maxPorts", "portmap takes about a minute"}},
		"as many source ranges as possible":    {nil, ranges(1000), nil},
		"too many source ranges":               {nil, ranges(1001), []string{"spec.loadBalancerSourceRanges: 1001 ranges", "more than 1000", "policy.maxSourceRanges"}},
		"more source ranges that are allowed":  {func(p *config.Policy) { p.MaxSourceRanges = 5000 }, ranges(5000), nil},
		"too many in the annotation":           {func(p *config.Policy) { p.MaxSourceRanges = 1 }, annotated(v1.AnnotationLoadBalancerSourceRangesKey, "192.0.2.0/24,192.0.2.0/24"), []string{v1.AnnotationLoadBalancerSourceRangesKey + ": 2 ranges"}},
		"a port of another namespace":          {func(p *config.Policy) { p.Ports = []config.NamespacePorts{web} }, ports(80, 443, 8080), []string{"port 80/TCP is", "port 443/TCP is", "namespace default", "policy.ports"}},
		"a port of its namespace":              {func(p *config.Policy) { p.Ports = []config.NamespacePorts{web} }, both(ports(80, 443), inNamespace("ingress")), nil},
		"a port of several entries":            {func(p *config.Policy) { p.Ports = []config.NamespacePorts{web, also} }, both(ports(443), inNamespace("apps")), nil},
		"a port of another entry":              {func(p *config.Policy) { p.Ports = []config.NamespacePorts{web, also} }, both(ports(80), inNamespace("apps")), []string{"port 80/TCP"}},
		"a port of no namespace":               {func(p *config.Policy) { p.Ports = []config.NamespacePorts{{Ports: []string{"80"}}} }, ports(80), []string{"port 80/TCP"}},
		"a port of another protocol":           {func(p *config.Policy) { p.Ports = []config.NamespacePorts{web} }, func(svc *v1.Service) { svc.Spec.Ports[0].Protocol = v1.ProtocolUDP }, nil},
		"direct by default":                    {nil, annotated(options.Datapath, "direct"), nil},
		"direct in another namespace":          {func(p *config.Policy) { p.DirectNamespaces = []string{"apps"} }, annotated(options.Datapath, "direct"), []string{options.Datapath, `"direct"`, "namespace default", "policy.directNamespaces"}},
		"auto in another namespace":            {func(p *config.Policy) { p.DirectNamespaces = []string{} }, annotated(options.Datapath, "auto"), []string{`"auto"`}},
		"proxy in another namespace":           {func(p *config.Policy) { p.DirectNamespaces = []string{"apps"} }, annotated(options.Datapath, "proxy"), nil},
		"direct in its namespace":              {func(p *config.Policy) { p.DirectNamespaces = []string{"default"} }, annotated(options.Datapath, "direct"), nil},
		"firewall in another namespace":        {func(p *config.Policy) { p.FirewallNamespaces = []string{"apps"} }, annotated(options.Firewall, "none"), []string{options.Firewall, "policy.firewallNamespaces"}},
		"firewall in its namespace":            {func(p *config.Policy) { p.FirewallNamespaces = []string{"default"} }, annotated(options.Firewall, "none"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := Policy{Defaults: options.Default(), Limits: defaultLimits(t)}
			if c.set != nil {
				c.set(&p.Limits)
			}
			_, err := p.Admit(service(c.change))
			wantRefused(t, err, c.want...)
		})
	}
}

func TestTheDefaultsOfTheCloudConfigAreNotLimited(t *testing.T) {
	p := Policy{Defaults: options.Default(), Limits: config.Policy{
		PriorityClassNames: []string{}, TolerationKeys: []string{}, MaxDrainSeconds: 1, DirectNamespaces: []string{}, FirewallNamespaces: []string{},
	}}
	p.Defaults.PriorityClassName, p.Defaults.Datapath, p.Defaults.DrainSeconds = "system-node-critical", options.DatapathDirect, 3
	p.Defaults.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}}
	_, err := p.Admit(service())
	wantRefused(t, err)
}

func TestTheFirewallModeOfAnotherNamespaceIsIgnored(t *testing.T) {
	p := Policy{Defaults: options.Default(), Limits: config.Policy{FirewallNamespaces: []string{"net"}}}
	for namespace, want := range map[string]firewall.Mode{"net": firewall.None, "apps": firewall.Managed} {
		if got := p.FirewallMode(service(inNamespace(namespace), annotated(options.Firewall, "none"))); got != want {
			t.Errorf("namespace %s: got mode %s, want %s", namespace, got, want)
		}
	}
}

func TestTheOldestServicesOfANamespaceAreAdmitted(t *testing.T) {
	of := func(namespace, name string, age int) *v1.Service {
		return service(inNamespace(namespace), func(svc *v1.Service) {
			svc.Name, svc.UID, svc.CreationTimestamp = name, types.UID(name), metav1.Time{Time: time.Unix(int64(1000-age), 0)}
		})
	}
	services := []*v1.Service{of("a", "young", 1), of("a", "old", 3), of("b", "only", 0), of("a", "b-twin", 2), of("a", "a-twin", 2)}
	limited := Policy{Defaults: options.Default(), Limits: config.Policy{MaxServicesPerNamespace: 2}}
	admit, unlimited := limited.Among(func() []*v1.Service { return services }), Policy{Defaults: options.Default()}.Among(nil)
	admitted := map[string]bool{"old": true, "a-twin": true, "b-twin": false, "young": false, "only": true}
	for _, svc := range services {
		_, err := admit(svc)
		if (err == nil) != admitted[svc.Name] || errors.Is(err, ErrTooManyServices) == admitted[svc.Name] {
			t.Errorf("%s: %v", svc.Name, err)
		}
		if _, err := unlimited(svc); err != nil {
			t.Errorf("%s without a limit: %v", svc.Name, err)
		}
	}
	// What else is wrong is in the error too.
	_, err := admit(of("a", "young", 1))
	wantRefused(t, err, "maxServicesPerNamespace allows 2 in a")
	invalid := services[0]
	invalid.Annotations = map[string]string{options.MaxNodes: "many"}
	_, err = admit(invalid)
	wantRefused(t, err, "maxServicesPerNamespace", options.MaxNodes)
}
