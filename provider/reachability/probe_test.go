package reachability

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func TestConnectReportsHowAnAttemptEnded(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	portOf := func(g group, address net.Addr) port {
		_, number, _ := net.SplitHostPort(address.String())
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		return port{g, int32(n)}
	}
	overTCP, overUDP := portOf(v4TCP, listener.Addr()), portOf(v4UDP, packets.LocalAddr())
	want := func(p port, o outcome) {
		t.Helper()
		a := connect(t.Context(), p, "127.0.0.1")
		if a.port != p || a.outcome != o || a.outcome == answered && a.remote {
			t.Errorf("%v: got %+v, want %s", p, a, o)
		}
	}
	want(overTCP, answered)
	want(overUDP, silent)
	if n, _, err := packets.ReadFrom(make([]byte, 10)); n != 0 || err != nil {
		t.Errorf("%d bytes arrived (%v)", n, err)
	}
	listener.Close()
	packets.Close()
	want(overTCP, refused)
	want(overUDP, refused)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if a := connect(cancelled, overTCP, "127.0.0.1"); a.outcome != aborted {
		t.Errorf("an attempt that was not made is %s", a.outcome)
	}
}

func TestOnlyARefusalComesFromTheNode(t *testing.T) {
	for err, want := range map[error]outcome{
		os.NewSyscallError("connect", syscall.ECONNREFUSED):  refused,
		os.NewSyscallError("connect", syscall.EHOSTUNREACH):  silent,
		os.NewSyscallError("connect", syscall.ETIMEDOUT):     silent,
		os.ErrDeadlineExceeded:                               silent,
		os.NewSyscallError("connect", syscall.ENETUNREACH):   aborted,
		os.NewSyscallError("connect", syscall.EADDRNOTAVAIL): aborted,
		os.NewSyscallError("socket", syscall.EMFILE):         aborted,
		errors.New("anything else"):                          aborted,
	} {
		if got := outcomeOf(&net.OpError{Op: "dial", Err: err}); got != want {
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
	}
}

func TestAReadingHasTheCountersOfTheServicesPorts(t *testing.T) {
	const text = `# TYPE hostport_nodeproxy_port_connections_total counter
hostport_nodeproxy_port_connections_total{family="IPv4",protocol="TCP",port="80"} 3
hostport_nodeproxy_port_connections_total{family="IPv6",protocol="TCP",port="80"} 4
hostport_nodeproxy_port_connections_total{family="IPv4",protocol="UDP",port="53"} 5
hostport_nodeproxy_port_connections_total{family="IPv4",protocol="TCP",port="22"} 6
hostport_nodeproxy_port_connections_total{family="IPv4",protocol="TCP",port="x"} 7
# TYPE hostport_nodeproxy_syncs_total counter
hostport_nodeproxy_syncs_total{result="unchanged"} 10
hostport_nodeproxy_syncs_total{result="changed"} 1
hostport_nodeproxy_syncs_total{result="failed"} 2
`
	parser := expfmt.NewTextParser(model.UTF8Validation)
	metrics, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	own := []snapshot.Port{{Protocol: v1.ProtocolTCP, Number: 80}, {Protocol: v1.ProtocolUDP, Number: 53}, {Protocol: v1.ProtocolTCP, Number: 443}}
	got := readingOf(metrics, own, map[v1.IPFamily]string{v1.IPv4Protocol: "10.0.0.1"})
	want := reading{connections: map[port]uint64{{v4TCP, 80}: 3, {v4UDP, 53}: 5}, syncs: 10, otherSyncs: 3}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(reading{}, port{}, group{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestThePortsAreCheckedAtTheAddressesThatPacketsArriveWith(t *testing.T) {
	internal := func(ip string) v1.NodeAddress { return v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip} }
	external := func(ip string) v1.NodeAddress { return v1.NodeAddress{Type: v1.NodeExternalIP, Address: ip} }
	vip := func(ip string) v1.Service {
		return v1.Service{Status: v1.ServiceStatus{LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: ip, IPMode: ptr.To(v1.LoadBalancerIPModeVIP)}}}}}
	}
	for name, c := range map[string]struct {
		addresses []v1.NodeAddress
		svc       v1.Service
		want      map[v1.IPFamily]string
	}{
		"the internal IPv4 address, as a cloud translates to it": {[]v1.NodeAddress{external("203.0.113.1"), internal("10.0.0.1")}, vip("203.0.113.1"), map[v1.IPFamily]string{v1.IPv4Protocol: "10.0.0.1"}},
		"the internal IPv6 address before the external one":      {[]v1.NodeAddress{internal("fd00::1"), external("2001:db8::1")}, v1.Service{}, map[v1.IPFamily]string{v1.IPv6Protocol: "fd00::1"}},
		"an external IPv6 address":                               {[]v1.NodeAddress{external("2001:db8::1")}, v1.Service{}, map[v1.IPFamily]string{v1.IPv6Protocol: "2001:db8::1"}},
		"none if there is only one that may be translated":       {[]v1.NodeAddress{external("203.0.113.1"), {Type: v1.NodeHostName, Address: "n1"}}, v1.Service{}, map[v1.IPFamily]string{}},
		"none that kube-proxy serves by the status":              {[]v1.NodeAddress{internal("10.0.0.1")}, vip("10.0.0.1"), map[v1.IPFamily]string{}},
		"none that kube-proxy serves by the spec":                {[]v1.NodeAddress{internal("10.0.0.1")}, v1.Service{Spec: v1.ServiceSpec{ExternalIPs: []string{"10.0.0.1"}}}, map[v1.IPFamily]string{}},
	} {
		got := addressesOf(&v1.Node{Status: v1.NodeStatus{Addresses: c.addresses}}, &c.svc)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
