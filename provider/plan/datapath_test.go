package plan

import (
	"strings"
	"testing"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestWantsDirectFollowsDatapathAndPolicy(t *testing.T) {
	for _, c := range []struct {
		choice options.DatapathChoice
		policy v1.ServiceExternalTrafficPolicy
		want   bool
	}{
		{options.DatapathProxy, v1.ServiceExternalTrafficPolicyLocal, false},
		{options.DatapathProxy, v1.ServiceExternalTrafficPolicyCluster, false},
		{options.DatapathDirect, v1.ServiceExternalTrafficPolicyLocal, true},
		{options.DatapathDirect, v1.ServiceExternalTrafficPolicyCluster, true},
		{options.DatapathAuto, v1.ServiceExternalTrafficPolicyLocal, true},
		{options.DatapathAuto, v1.ServiceExternalTrafficPolicyCluster, false},
		{options.DatapathAuto, "", false},
	} {
		svc := service(func(svc *v1.Service) { svc.Spec.ExternalTrafficPolicy = c.policy })
		if got := WantsDirect(svc, options.Options{Datapath: c.choice}); got != c.want {
			t.Errorf("%s, policy %q: got %t", c.choice, c.policy, got)
		}
	}
}

func TestDirectUnavailableReportsTheReason(t *testing.T) {
	conflicts := []Conflict{{Message: "port 22/TCP is reserved"}}
	selecting := func(svc *v1.Service) { svc.Spec.Selector = map[string]string{"app": "web"} }
	ranged := func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} }
	dual := func(svc *v1.Service) { svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} }
	annotated := func(svc *v1.Service) {
		svc.Annotations = map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: "192.0.2.0/24"}
	}
	for name, c := range map[string]struct {
		env       Environment
		svc       *v1.Service
		conflicts []Conflict
		words     []string // Empty if it is available.
		mustStop  bool
	}{
		"available in mode iptables":                    {Environment{KubeProxy: config.KubeProxyIPTables, Translated: true}, service(selecting), nil, nil, false},
		"available in mode nftables":                    {Environment{KubeProxy: config.KubeProxyNFTables, Translated: true}, service(selecting), nil, nil, false},
		"mode ipvs":                                     {Environment{KubeProxy: config.KubeProxyIPVS, Translated: true}, service(selecting), nil, []string{"mode ipvs", "use datapath proxy"}, true},
		"mode ipvs on bare metal":                       {Environment{KubeProxy: config.KubeProxyIPVS}, service(selecting), nil, []string{"mode ipvs"}, true},
		"no kube-proxy":                                 {Environment{KubeProxy: config.KubeProxyNone}, service(selecting), nil, []string{"no kube-proxy", "use datapath proxy"}, false},
		"an unknown mode":                               {Environment{UnknownReason: "no config exists"}, service(selecting), nil, []string{"as no config exists", "loadBalancer.kubeProxyMode"}, false},
		"no selector for a mirror":                      {Environment{KubeProxy: config.KubeProxyIPTables, Translated: true}, service(), nil, []string{"no selector"}, false},
		"available without a selector on bare metal":    {Environment{KubeProxy: config.KubeProxyIPTables}, service(), nil, nil, false},
		"available for a mirror with some ports":        {Environment{KubeProxy: config.KubeProxyIPTables, Translated: true}, service(selecting), conflicts, nil, false},
		"a port conflict on bare metal":                 {Environment{KubeProxy: config.KubeProxyIPTables}, service(selecting), conflicts, []string{"port 22/TCP is reserved"}, true},
		"no source range of a family on bare metal":     {Environment{KubeProxy: config.KubeProxyIPTables}, service(ranged, dual), nil, []string{"all clients over IPv6", "spec.loadBalancerSourceRanges"}, true},
		"available with a source range of each family":  {Environment{KubeProxy: config.KubeProxyIPTables}, service(ranged), nil, nil, false},
		"available without source ranges on bare metal": {Environment{KubeProxy: config.KubeProxyIPTables}, service(dual), nil, nil, false},
		"source ranges in the annotation on bare metal": {Environment{KubeProxy: config.KubeProxyIPTables}, service(annotated), nil, []string{"annotation service.beta", "spec.loadBalancerSourceRanges"}, true},
		"available with such ranges for a mirror":       {Environment{KubeProxy: config.KubeProxyIPTables, Translated: true}, service(selecting, annotated, dual), nil, nil, false},
		"IP mode Proxy by config on bare metal":         {Environment{KubeProxy: config.KubeProxyIPTables, IPMode: v1.LoadBalancerIPModeProxy}, service(selecting), nil, []string{"loadBalancer.ipMode"}, false},
		"available with IP mode Proxy for a mirror":     {Environment{KubeProxy: config.KubeProxyIPTables, Translated: true, IPMode: v1.LoadBalancerIPModeProxy}, service(selecting), nil, nil, false},
		"available with IP mode VIP by config":          {Environment{KubeProxy: config.KubeProxyIPTables, IPMode: v1.LoadBalancerIPModeVIP}, service(selecting), nil, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.env.CheckDirect(c.svc, options.Default(), c.conflicts)
			if (got == nil) != (c.words == nil) {
				t.Fatalf("got %v", got)
			}
			for _, word := range c.words {
				if !strings.Contains(got.Error(), word) {
					t.Errorf("%q does not contain %q", got.Error(), word)
				}
			}
			if got != nil && got.MustStop != c.mustStop {
				t.Errorf("must stop: %t", got.MustStop)
			}
		})
	}
}

func TestALimitPerClientPreventsDatapathDirect(t *testing.T) {
	limited := options.Default()
	limited.MaxConnectionsPerClient = 9
	for _, translated := range []bool{true, false} {
		svc := service(func(svc *v1.Service) { svc.Spec.Selector = map[string]string{"app": "web"} })
		got := Environment{KubeProxy: config.KubeProxyIPTables, Translated: translated}.CheckDirect(svc, limited, nil)
		if got == nil || !got.MustStop || !strings.Contains(got.Error(), options.MaxConnectionsPerClient) {
			t.Errorf("translated %t: got %v", translated, got)
		}
	}
}
