package plan

import (
	"fmt"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"

	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestInternalAddressesAreConfinedInFirewallProxiesAndMirror(t *testing.T) {
	o := parsed(t, map[string]string{options.NodeAddresses: "internal"})
	private := []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}
	for name, c := range map[string]struct {
		change func(*v1.Service)
		want   []string
	}{
		"IPv4":         {func(*v1.Service) {}, private},
		"dual stack":   {func(svc *v1.Service) { svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} }, append(private[:3:3], "fc00::/7")},
		"ranges of it": {func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24"} }, []string{"203.0.113.0/24"}},
	} {
		t.Run(name, func(t *testing.T) {
			svc := service(func(svc *v1.Service) { svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol} }, c.change)
			p := mustBuild(t, svc, o, node("a", nil))
			if got := fmt.Sprint(p.Firewall.SourceRanges); got != fmt.Sprint(c.want) {
				t.Errorf("the firewall allows %s, want %v", got, c.want)
			}
			config, err := proxyconfig.Parse([]byte(mustProxies(t, svc, o).ConfigMap.Data[proxyconfig.FileName]))
			if err != nil || !slices.Equal(config.SourceRanges, c.want) {
				t.Errorf("the proxies allow %v (%v), want %v", config.SourceRanges, err, c.want)
			}
			if got := p.Mirror.Spec.LoadBalancerSourceRanges; !slices.Equal(got, c.want) {
				t.Errorf("the mirror allows %v, want %v", got, c.want)
			}
		})
	}
}
