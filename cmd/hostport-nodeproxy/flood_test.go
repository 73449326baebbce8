package main

import (
	"fmt"
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

func TestAClientHasAtMostItsLimitOfConnections(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		const limit = 3
		limited := strings.Replace(service(anySource, clusterIP), "{", `{"maxConnectionsPerClient":3,`, 1)
		p := newTestNetwork(t).start(flavour, limited)
		p.awaitReady()
		// Each request has a source port of its own, and so is a UDP flow that is tracked for 30
		// seconds. The limit is on all ports together.
		for range limit {
			p.wantAnswer(client, "udp", pod+":53", clusterIP)
		}
		p.wantError(client, "udp", pod+":53", errTimeout)
		p.wantError(client, "tcp", pod+":80", errTimeout)
		p.wantAnswer(otherClient, "udp", pod+":53", clusterIP)
		p.wantAnswer(otherClient, "tcp", pod+":80", clusterIP)
		eventually(t, "counting dropped packets", func() (string, bool) {
			metrics, _ := p.get("/metrics")
			const dropped = `hostport_nodeproxy_client_limit_dropped_packets_total{family="IPv4"} `
			return metrics, strings.Contains(metrics, dropped) && !strings.Contains(metrics, dropped+"0\n")
		})
		p.write(service(anySource, clusterIP))
		eventually(t, "an answer after the limit is removed", func() (string, bool) {
			answer, err := p.request(client, "tcp", pod+":80")
			return fmt.Sprint(err), strings.HasPrefix(answer, clusterIP)
		})
	})
}
