package options

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestParsePortRangeAcceptsPortsAndRanges(t *testing.T) {
	for text, want := range map[string]PortRange{
		"22": {22, 22, ""}, "2379-2380": {2379, 2380, ""}, "1-65535": {1, 65535, ""},
		"53/UDP": {53, 53, v1.ProtocolUDP}, "10248-10260/TCP": {10248, 10260, v1.ProtocolTCP}, "9/SCTP": {9, 9, v1.ProtocolSCTP},
		"": {}, "0": {}, "65536": {}, "5-4": {}, "1-": {}, "-1": {}, "ssh": {}, "1-2-3": {}, " 22": {},
		"53/": {}, "53/udp": {}, "53/UDP/TCP": {}, "/UDP": {}, "53-54/ICMP": {}, "+5": {}, "1/TCP-2": {},
	} {
		got, err := ParsePortRange(text)
		if got != want || (err == nil) != (want != PortRange{}) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestAPortRangeContainsItsEnds(t *testing.T) {
	all, udp := PortRange{10, 12, ""}, PortRange{10, 12, v1.ProtocolUDP}
	for port, want := range map[int32]bool{9: false, 10: true, 11: true, 12: true, 13: false} {
		if all.Contains(v1.ProtocolTCP, port) != want || all.Contains(v1.ProtocolSCTP, port) != want || udp.Contains(v1.ProtocolUDP, port) != want {
			t.Errorf("port %d: want %t", port, want)
		}
		if udp.Contains(v1.ProtocolTCP, port) {
			t.Errorf("port %d/TCP is in a range of UDP", port)
		}
	}
}
