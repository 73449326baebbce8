package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/hostport-ccm/hostport-ccm/test/synflood"
)

func TestHalfOpenConnectionsAreForgottenSoonInThePodOnly(t *testing.T) {
	tn := newTestNetwork(t)
	const timeouts = "cd /proc/sys/net/netfilter; cat nf_conntrack_tcp_timeout_syn_recv nf_conntrack_tcp_timeout_established"
	before := tn.output("node", timeouts)
	p := tn.start("nft", service(anySource, clusterIP))
	p.awaitReady()
	if got, want := tn.output("pod", timeouts), "10\n7500\n"; got != want {
		t.Errorf("the pod's timeouts are %q, want %q", got, want)
	}
	if got := tn.output("node", timeouts); got != before {
		t.Errorf("the node's timeouts are %q, want %q as before", got, before)
	}
	if metrics, _ := p.get("/metrics"); !strings.Contains(metrics, "hostport_nodeproxy_conntrack_timeouts_set 1\n") {
		t.Errorf("the metrics lack that timeouts are set:\n%s", metrics)
	}
}

func TestAPortStaysUsableUnderAFloodOfHalfOpenConnections(t *testing.T) {
	p := newTestNetwork(t).start("nft", service(anySource, clusterIP))
	p.awaitReady()
	// Nobody has the addresses. The client drops what is sent to them.
	p.do("client", "echo 0 > /proc/sys/net/ipv4/ip_forward")
	p.do("node", "ip route add 192.0.2.0/24 via "+client)
	// With the kernel's own timeouts, these would use up the source ports for a minute.
	p.check(p.on("client", func() error {
		return synflood.Send(t.Context(), netip.MustParseAddrPort(pod+":80"), netip.MustParsePrefix("192.0.2.0/24"), 75_000, 5_000)
	}))
	p.wantAnswer(client, "tcp", pod+":80", clusterIP)
	metrics, _ := p.get("/metrics")
	const tracked = `port_tracked_connections{family="IPv4",protocol="TCP",port="80"} `
	if !strings.Contains(metrics, tracked) || strings.Contains(metrics, tracked+"0\n") {
		t.Errorf("no half-open connection is in the metrics:\n%s", metrics)
	}
}
