package policy

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func service(change ...func(*v1.Service)) *v1.Service {
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web-uid"},
		Spec: v1.ServiceSpec{
			ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"},
			Ports: []v1.ServicePort{{Protocol: v1.ProtocolTCP, Port: 80}},
		},
	}
	for _, c := range change {
		c(svc)
	}
	return svc
}

// annotated sets annotations, given as names and values in turn.
func annotated(pairs ...string) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Annotations = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			svc.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

func inNamespace(name string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Namespace = name }
}

// wantRefused checks the error of Admit: each of the words is in it, and it is nil without words.
func wantRefused(t *testing.T, err error, words ...string) {
	t.Helper()
	if (err == nil) != (len(words) == 0) {
		t.Errorf("got %v, want %q", err, words)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("got %q, want %q in it", err, word)
		}
	}
}

func TestAServiceIsAdmittedIfAllThatItAsksForIsValid(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1.Service)
		want   []string // Empty: it is admitted.
	}{
		"without annotations":    {func(*v1.Service) {}, nil},
		"with valid annotations": {annotated(options.MaxNodes, "2", options.Datapath, "auto"), nil},
		"an invalid annotation":  {annotated(options.MaxNodes, "many"), []string{options.MaxNodes, `"many"`}},
		"all problems are named": {annotated(options.MaxNodes, "many", options.Datapath, "mirror", v1.AnnotationLoadBalancerSourceRangesKey, "x"),
			[]string{options.MaxNodes, options.Datapath, v1.AnnotationLoadBalancerSourceRangesKey}},
		"an unknown annotation":        {annotated(options.Prefix+"x", "y"), nil},
		"a mode below the default":     {annotated(options.Firewall, "none"), nil},
		"a mode that exceeds the rest": {annotated(options.Firewall, "managed"), []string{options.Firewall, "loadBalancer.firewall: report"}},
		"no ports":                     {func(svc *v1.Service) { svc.Spec.Ports = nil }, []string{"default/web has no ports"}},
		"no cluster IP": {func(svc *v1.Service) {
			svc.Spec.ClusterIP, svc.Spec.ClusterIPs = v1.ClusterIPNone, []string{v1.ClusterIPNone}
		}, []string{"no cluster IP"}},
		"a cluster IP in the old field": {func(svc *v1.Service) { svc.Spec.ClusterIPs = nil }, nil},
		"an invalid range":              {func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0"} }, []string{`spec.loadBalancerSourceRanges: "10.0.0.0"`}},
	} {
		t.Run(name, func(t *testing.T) {
			p := Policy{Defaults: options.Default()}
			p.Defaults.Firewall = firewall.Report
			o, err := p.Admit(service(c.change))
			wantRefused(t, err, c.want...)
			if err == nil && o.NodeSelector == nil {
				t.Error("the options are empty")
			}
		})
	}
}

func TestTheFirewallModeHoldsEvenIfTheServiceIsRefused(t *testing.T) {
	for value, want := range map[string]firewall.Mode{"": firewall.Report, "none": firewall.None, "report": firewall.Report, "managed": firewall.Report, "open": firewall.Report} {
		p := Policy{Defaults: options.Default()}
		p.Defaults.Firewall = firewall.Report
		svc := service(annotated(options.Firewall, value, options.MaxNodes, "many"))
		if value == "" {
			delete(svc.Annotations, options.Firewall)
		}
		if got := p.FirewallMode(svc); got != want {
			t.Errorf("annotation %q: got mode %s, want %s", value, got, want)
		}
	}
}
