package config

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func defaultReserved(t *testing.T) Reserved {
	t.Helper()
	cfg, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	return cfg.LoadBalancer.Reserved()
}

func TestThePortsOfCommonClustersAreReservedByDefault(t *testing.T) {
	reserved := defaultReserved(t)
	for _, c := range []struct {
		protocol v1.Protocol
		port     int32
		want     string // Empty: the port is free.
	}{
		{v1.ProtocolTCP, 53, "DNS"}, {v1.ProtocolUDP, 53, "DNS"}, {v1.ProtocolTCP, 22, "SSH"}, {v1.ProtocolUDP, 22, ""},
		{v1.ProtocolUDP, 68, "DHCP client"}, {v1.ProtocolUDP, 123, "NTP"}, {v1.ProtocolTCP, 123, ""}, {v1.ProtocolTCP, 179, "BGP"},
		{v1.ProtocolTCP, 2379, "etcd"}, {v1.ProtocolTCP, 6443, "the API server"}, {v1.ProtocolUDP, 8472, "VXLAN"},
		{v1.ProtocolTCP, 8472, ""}, {v1.ProtocolUDP, 4789, "VXLAN"}, {v1.ProtocolUDP, 6081, "Geneve"},
		{v1.ProtocolUDP, 51820, "WireGuard"}, {v1.ProtocolUDP, 51821, "WireGuard"}, {v1.ProtocolUDP, 51871, "WireGuard"},
		{v1.ProtocolTCP, 5473, "Typha"}, {v1.ProtocolTCP, 9099, "health"}, {v1.ProtocolTCP, 4240, "Cilium"},
		{v1.ProtocolTCP, 9100, "node-exporter"}, {v1.ProtocolTCP, 10250, "kubelet"}, {v1.ProtocolUDP, 10250, ""},
		{v1.ProtocolTCP, 29999, ""}, {v1.ProtocolTCP, 30000, "node ports"}, {v1.ProtocolUDP, 32767, "node ports"}, {v1.ProtocolSCTP, 31000, "node ports"},
		{v1.ProtocolTCP, 32768, ""}, {v1.ProtocolTCP, 80, ""}, {v1.ProtocolTCP, 443, ""}, {v1.ProtocolUDP, 443, ""}, {v1.ProtocolTCP, 8080, ""},
	} {
		got := reserved.Refusal(c.protocol, c.port)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("port %d/%s: got %q, want %q", c.port, c.protocol, got, c.want)
		}
	}
}

func TestARefusalNamesTheFieldToChange(t *testing.T) {
	reserved := (&LoadBalancer{ReservedPorts: []string{"7000"}, NodePortRange: "20000-21000"}).Reserved()
	for port, want := range map[int32]string{7000: "is reserved for the nodes themselves: use another port, or take it off loadBalancer.reservedPorts", 20000: "from 20000 to 21000: use another port, or set loadBalancer.nodePortRange"} {
		if got := reserved.Refusal(v1.ProtocolTCP, port); !strings.Contains(got, want) {
			t.Errorf("port %d: got %q, want %q in it", port, got, want)
		}
	}
	for _, reserved := range []Reserved{{}, (&LoadBalancer{NodePortRange: "none"}).Reserved()} {
		if got := reserved.Refusal(v1.ProtocolTCP, 30000); got != "" {
			t.Errorf("port 30000 is refused, although none is reserved: %s", got)
		}
	}
}

func TestDefaultReservedPortsAreValidAndSortedWithAReasonEach(t *testing.T) {
	last := int32(0)
	for _, entry := range DefaultReservedPorts {
		r, err := options.ParsePortRange(entry.Ports)
		if err != nil || entry.Reason == "" || r.First <= last {
			t.Errorf("entry %v: %v; the entry before ends at %d", entry, err, last)
		}
		last = r.Last
	}
}
