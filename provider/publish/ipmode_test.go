package publish

import (
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

func TestIPModes(t *testing.T) {
	const vip, proxy = v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy
	for name, c := range map[string]struct {
		env                plan.Environment
		allPorts, isDirect bool
		want               IPMode
	}{
		"on GCE, external IPv4 addresses are on no node": {plan.Environment{Translated: true}, true, false, IPMode{ExternalIPv4: vip, Other: proxy}},
		"the same with a mirror":                         {plan.Environment{Translated: true}, true, true, IPMode{ExternalIPv4: vip, Other: proxy}},
		"on GCE, by config":                              {plan.Environment{Translated: true, IPMode: proxy}, true, false, IPMode{ExternalIPv4: proxy, Other: proxy}},
		"on GCE, by config, with a mirror":               {plan.Environment{Translated: true, IPMode: vip}, true, true, IPMode{ExternalIPv4: vip, Other: proxy}},
		"on bare metal, nodes have all addresses":        {plan.Environment{}, true, false, IPMode{ExternalIPv4: proxy, Other: proxy, Direct: vip}},
		"on bare metal, by config":                       {plan.Environment{IPMode: vip}, true, false, IPMode{ExternalIPv4: vip, Other: vip, Direct: vip}},
		"a Service with a conflict":                      {plan.Environment{Translated: true, IPMode: vip}, false, false, IPMode{ExternalIPv4: proxy, Other: proxy}},
		"in mode ipvs, whatever the config says":         {plan.Environment{Translated: true, IPMode: vip, KubeProxy: config.KubeProxyIPVS}, true, true, IPMode{ExternalIPv4: proxy, Other: proxy}},
	} {
		if got := IPModes(c.env, c.allPorts, c.isDirect); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}
