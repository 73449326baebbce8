package nodeaddress

import (
	"slices"
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", ",", "203.0.113.1, 2001:DB8::1", "203.0.113.1,203.0.113.1", "::ffff:203.0.113.1", "fe80::1%eth0", "0.0.0.0", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		ips, _ := Parse(list)
		var again []string
		for _, ip := range ips {
			if !ip.IsGlobalUnicast() || ip.Zone() != "" || ip.Is4In6() {
				t.Errorf("%q gave %v, which no node can have", list, ip)
			}
			again = append(again, ip.String())
		}
		reread, invalid := Parse(strings.Join(again, ","))
		if len(invalid) > 0 || !slices.Equal(ips, reread) {
			t.Errorf("%q gave %v, and those gave %v and %v", list, ips, reread, invalid)
		}
	})
}
