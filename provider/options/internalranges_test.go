package options

import (
	"fmt"
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestInternalAddressesAloneAreOpenToTheInternalNetworkAlone(t *testing.T) {
	v4, v6 := v1.IPv4Protocol, v1.IPv6Protocol
	private := "[10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"
	for name, c := range map[string]struct {
		addresses Addresses
		families  []v1.IPFamily
		written   []string
		ranges    []netip.Prefix // Other than the default.
		want      string
	}{
		"external addresses":                        {addresses: External, families: []v1.IPFamily{v4}, want: "[0.0.0.0/0]"},
		"internal ones where there are no others":   {addresses: ExternalOrInternal, families: []v1.IPFamily{v4}, want: "[0.0.0.0/0]"},
		"internal ones of a Service with IPv4":      {addresses: Internal, families: []v1.IPFamily{v4}, want: private + "]"},
		"internal ones of a Service with IPv6":      {addresses: Internal, families: []v1.IPFamily{v6}, want: "[fc00::/7]"},
		"internal ones of a Service with both":      {addresses: Internal, families: []v1.IPFamily{v4, v6}, want: private + " fc00::/7]"},
		"internal ones where families are unknown":  {addresses: Internal, want: private + " fc00::/7]"},
		"internal ones with ranges of the Service":  {addresses: Internal, families: []v1.IPFamily{v4}, written: []string{"203.0.113.0/24"}, want: "[203.0.113.0/24]"},
		"a Service of a family that has no range":   {addresses: Internal, families: []v1.IPFamily{v6}, ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, want: "[10.0.0.0/8]"},
		"internal ones with the cloud config's own": {addresses: Internal, families: []v1.IPFamily{v4}, ranges: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}, want: "[100.64.0.0/10]"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Default()
			if o.Addresses = c.addresses; c.ranges != nil {
				o.InternalRanges = c.ranges
			}
			svc := &v1.Service{Spec: v1.ServiceSpec{IPFamilies: c.families, LoadBalancerSourceRanges: c.written}}
			if got, err := o.ClientRanges(svc); err != nil || fmt.Sprint(got) != c.want {
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			}
		})
	}
}
