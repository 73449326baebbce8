package publish

import (
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

func TestIPModesFollowProviderAndConfig(t *testing.T) {
	const vip, proxy = v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy
	for name, c := range map[string]struct {
		env                plan.Environment
		allPorts, isDirect bool
		want               IPMode
	}{
		"on GCE with proxies":                        {plan.Environment{Translated: true}, true, false, IPMode{ExternalIPv4: vip, Other: proxy}},
		"on GCE with a mirror":                       {plan.Environment{Translated: true}, true, true, IPMode{ExternalIPv4: vip, Other: proxy}},
		"on GCE with a configured mode":              {plan.Environment{Translated: true, IPMode: proxy}, true, false, IPMode{ExternalIPv4: proxy, Other: proxy}},
		"on GCE with a configured mode and a mirror": {plan.Environment{Translated: true, IPMode: vip}, true, true, IPMode{ExternalIPv4: vip, Other: proxy}},
		"on bare metal":                              {plan.Environment{}, true, false, IPMode{ExternalIPv4: proxy, Other: proxy, Direct: vip}},
		"on bare metal with a configured mode":       {plan.Environment{IPMode: vip}, true, false, IPMode{ExternalIPv4: vip, Other: vip, Direct: vip}},
		"with a port conflict":                       {plan.Environment{Translated: true, IPMode: vip}, false, false, IPMode{ExternalIPv4: proxy, Other: proxy}},
		"in mode ipvs despite a configured mode":     {plan.Environment{Translated: true, IPMode: vip, KubeProxy: config.KubeProxyIPVS}, true, true, IPMode{ExternalIPv4: proxy, Other: proxy}},
	} {
		if got := IPModes(c.env, c.allPorts, c.isDirect); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}
