package options

import "testing"

func TestParsePortRangeAcceptsPortsAndRanges(t *testing.T) {
	for text, want := range map[string]PortRange{
		"22": {22, 22}, "2379-2380": {2379, 2380}, "1-65535": {1, 65535},
		"": {}, "0": {}, "65536": {}, "5-4": {}, "1-": {}, "-1": {}, "ssh": {}, "1-2-3": {}, " 22": {},
	} {
		got, err := ParsePortRange(text)
		if got != want || (err == nil) != (want != PortRange{}) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestAPortRangeContainsItsEnds(t *testing.T) {
	r := PortRange{10, 12}
	for port, want := range map[int32]bool{9: false, 10: true, 11: true, 12: true, 13: false} {
		if r.Contains(port) != want {
			t.Errorf("port %d: want %t", port, want)
		}
	}
}
