package publish

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestFieldProblemsNameTheFieldAndWhatToUse(t *testing.T) {
	annotated := func(key, value string) func(*v1.Service) {
		return func(svc *v1.Service) { svc.Annotations = map[string]string{key: value} }
	}
	affinity := func(svc *v1.Service) { svc.Spec.SessionAffinity = v1.ServiceAffinityClientIP }
	for name, c := range map[string]struct {
		change    func(*v1.Service)
		direct    bool
		addresses options.Addresses
		want      []string // The reason and parts of the only message.
	}{
		"no such field":         {change: func(svc *v1.Service) { svc.Spec.SessionAffinity = v1.ServiceAffinityNone }},
		"loadBalancerIP":        {change: func(svc *v1.Service) { svc.Spec.LoadBalancerIP = "192.0.2.1" }, want: []string{ReasonIgnored, `spec.loadBalancerIP "192.0.2.1" is ignored`, options.NodeSelector, options.MaxNodes}},
		"an address of MetalLB": {change: annotated("metallb.io/loadBalancerIPs", "192.0.2.1"), want: []string{ReasonIgnored, "metallb.io/loadBalancerIPs", options.NodeSelector}},
		"an internal load balancer of GKE": {
			change: annotated("networking.gke.io/load-balancer-type", "Internal"), addresses: options.External,
			want: []string{ReasonIgnored, "networking.gke.io/load-balancer-type", options.NodeAddresses + " to internal"},
		},
		"an internal load balancer with internal addresses": {change: annotated("networking.gke.io/load-balancer-type", "Internal"), addresses: options.Internal},
		"an external load balancer of GKE":                  {change: annotated("networking.gke.io/load-balancer-type", "External")},
		"external IPs":                                      {change: func(svc *v1.Service) { svc.Spec.ExternalIPs = []string{"192.0.2.1", "192.0.2.2"} }, want: []string{ReasonHidden, "ExternalDNS", "192.0.2.1, 192.0.2.2", "status.loadBalancer"}},
		"affinity through proxies":                          {change: affinity, want: []string{ReasonAffinity, "one endpoint", options.Datapath + " to direct"}},
		"affinity by kube-proxy":                            {change: affinity, direct: true},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &v1.Service{}
			c.change(svc)
			got := FieldProblems(svc, options.Options{Addresses: c.addresses}, c.direct)
			if len(c.want) == 0 {
				if len(got) > 0 {
					t.Errorf("got %v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Reason != c.want[0] {
				t.Fatalf("got %v", got)
			}
			for _, part := range c.want[1:] {
				if !strings.Contains(got[0].Message, part) {
					t.Errorf("%q does not contain %q", got[0].Message, part)
				}
			}
		})
	}
}
