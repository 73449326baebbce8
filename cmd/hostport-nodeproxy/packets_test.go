package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// binary is the program under test, built as for the image.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hostport-nodeproxy-test")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "hostport-nodeproxy")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -X main.version=test", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// service is a config for TCP port 80 and UDP port 53.
func service(ranges string, clusterIPs ...string) string {
	return fmt.Sprintf(`{"service":"default/web","ports":[{"port":80},{"protocol":"UDP","port":53}],"clusterIPs":["%s"],"sourceRanges":[%s]}`,
		strings.Join(clusterIPs, `","`), ranges)
}

const (
	anySource  = `"0.0.0.0/0","::/0"`
	clientOnly = `"` + client + `/32"`
)

// inBothFlavours runs a test once per flavour of iptables.
func inBothFlavours(t *testing.T, test func(t *testing.T, flavour string)) {
	for _, flavour := range []string{"nft", "legacy"} {
		t.Run(flavour, func(t *testing.T) { test(t, flavour) })
	}
}

// wantAnswer sends a request and compares the beginning of the answer.
func (tn *testNetwork) wantAnswer(from, network, address, want string) {
	tn.t.Helper()
	if got, err := tn.requestFor(longTimeout, from, network, address); err != nil || !strings.HasPrefix(got, want) {
		tn.t.Errorf("%s %s from %s answered %q, %v, want %q", network, address, from, got, err, want)
	}
}

func (tn *testNetwork) wantError(from, network, address string, want error) {
	tn.t.Helper()
	limit := longTimeout
	if want == errTimeout {
		limit = shortTimeout
	}
	if got, err := tn.requestFor(limit, from, network, address); !errors.Is(err, want) {
		tn.t.Errorf("%s %s from %s answered %q, %v, want error %v", network, address, from, got, err, want)
	}
}

func TestOnlyTheConfiguredPortsAreForwardedWithMasquerade(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		tn := newTestNetwork(t)
		tn.wantError(client, "tcp", pod+":80", syscall.ECONNREFUSED)
		p := tn.start(flavour, service(anySource, clusterIP))
		p.awaitReady()
		p.wantAnswer(client, "tcp", pod+":80", clusterIP+":80 from "+pod)
		p.wantAnswer(client, "udp", pod+":53", clusterIP+":53 from "+pod)
		p.wantError(client, "tcp", pod+":81", syscall.ECONNREFUSED)
		p.wantError(client, "tcp", pod+":53", syscall.ECONNREFUSED)
		// The pod must not route packets to other destinations.
		p.do("client", "ip route add 10.2.0.0/24 via 198.51.100.1")
		p.do("node", "ip rule add iif client to 10.2.0.5 lookup 7; ip route add default via "+pod+" table 7")
		p.wantError(client, "tcp", "10.2.0.5:80", errTimeout)
		metrics, _ := p.get("/metrics")
		for _, want := range []string{
			`port_connections_total{family="IPv4",protocol="TCP",port="80"} 1`,
			`port_connections_total{family="IPv4",protocol="UDP",port="53"} 1`,
			`port_packets_total{family="IPv4",protocol="UDP",port="53",direction="out"} 1`,
			`iptables_info{family="IPv4",flavour="` + flavour + `"} 1`,
		} {
			eventually(t, "counting "+want, func() (string, bool) {
				metrics, _ = p.get("/metrics")
				return metrics, strings.Contains(metrics, want+"\n")
			})
		}
		if body, status := p.get("/healthz"); status != 200 {
			t.Errorf("/healthz = %d %s", status, body)
		}
		p.wantLowMemory()
	})
}

// wantLowMemory waits until the resident memory is at most 10 MiB after some use. The garbage
// collector returns memory in the background.
func (p *proxy) wantLowMemory() {
	p.t.Helper()
	for range 50 {
		p.get("/metrics")
		p.get("/readyz")
	}
	eventually(p.t, "at most 10 MiB of resident memory", func() (string, bool) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		p.check(err)
		_, rest, _ := strings.Cut(string(data), "VmRSS:")
		kib, err := strconv.Atoi(strings.Fields(rest)[0])
		p.check(err)
		return fmt.Sprintf("%d KiB", kib), kib <= 10<<10
	})
}

func TestTheMSSIsClampedToThePathMTU(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newTestNetwork(t).start(flavour, service(anySource, clusterIP))
		p.awaitReady()
		answer, err := p.request(client, "tcp", pod+":80")
		p.check(err)
		_, size, _ := strings.Cut(answer, " mss ")
		if got, err := strconv.Atoi(size); err != nil || got > routeMTU-40 {
			t.Errorf("answer %q: want a segment size of at most %d", answer, routeMTU-40)
		}
	})
}

func TestSourceRangesAreEnforcedAndUpdated(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newTestNetwork(t).start(flavour, service(clientOnly, clusterIP))
		p.awaitReady()
		p.wantAnswer(client, "tcp", pod+":80", clusterIP)
		p.wantAnswer(client, "udp", pod+":53", clusterIP)
		p.wantError(otherClient, "tcp", pod+":80", errTimeout)
		p.wantError(otherClient, "udp", pod+":53", errTimeout)
		p.write(service(`"`+otherClient+`/32"`, clusterIP))
		eventually(t, "an answer to the other client", func() (string, bool) {
			answer, err := p.request(otherClient, "tcp", pod+":80")
			return answer + fmt.Sprint(err), err == nil
		})
		p.wantError(client, "tcp", pod+":80", errTimeout)
		p.write(service("", clusterIP))
		eventually(t, "no answer to any client", func() (string, bool) {
			answer, err := p.request(otherClient, "tcp", pod+":80")
			return answer, errors.Is(err, errTimeout)
		})
	})
}

func TestTheNodesRejectReachesTheClient(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newTestNetwork(t).start(flavour, service(clientOnly, emptyClusterIP))
		p.awaitReady()
		p.wantError(client, "tcp", pod+":80", syscall.ECONNREFUSED)
		p.wantError(client, "udp", pod+":53", syscall.ECONNREFUSED)
	})
}

func TestFlushedRulesAreRepairedAndTheProxyIsNotReadyUntilThen(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newTestNetwork(t).start(flavour, service(anySource, clusterIP))
		p.awaitReady()
		// Without iptables-restore the proxy cannot repair the rules, and the test can
		// observe that it is not ready.
		restore := filepath.Join(p.bin, "iptables-"+flavour+"-restore")
		p.check(os.Rename(restore, restore+".away"))
		p.do("pod", "for t in nat filter mangle; do iptables-"+flavour+" -t $t -F; iptables-"+flavour+" -t $t -X; done")
		p.awaitNotReady("IPv4 rules")
		p.check(os.Rename(restore+".away", restore))
		p.awaitReady()
		p.wantAnswer(client, "tcp", pod+":80", clusterIP)
		p.do("pod", "iptables-"+flavour+" -t nat -F")
		eventually(t, "the repair", func() (string, bool) {
			answer, err := p.request(client, "tcp", pod+":80")
			return fmt.Sprint(err), err == nil && strings.HasPrefix(answer, clusterIP)
		})
	})
}

func TestAConfigChangeLosesNoConnectionAndAllowsNoOtherSource(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newTestNetwork(t).start(flavour, service(clientOnly, clusterIP))
		p.awaitReady()
		var stop atomic.Bool
		var served, sent atomic.Int64
		var requests sync.WaitGroup
		for range 4 {
			requests.Go(func() {
				for !stop.Load() {
					if _, err := p.requestFor(longTimeout, client, "tcp", pod+":80"); err != nil {
						t.Errorf("a connection from an allowed source was lost: %v", err)
					}
					served.Add(1)
				}
			})
		}
		// The other source uses UDP, which does not wait for answers.
		other, err := p.dial(otherClient, "udp", pod+":53")
		p.check(err)
		defer other.Close()
		requests.Go(func() {
			for !stop.Load() {
				if _, err := other.Write([]byte("?")); err != nil {
					t.Errorf("a packet from another source was rejected, not dropped: %v", err)
				}
				sent.Add(1)
				time.Sleep(100 * time.Microsecond)
			}
		})
		for i := range 20 {
			target := []string{clusterIP, nextClusterIP}[i%2]
			p.write(service(clientOnly+fmt.Sprintf(`,"203.0.113.%d/32"`, i), target))
			eventually(t, "applying the change", func() (string, bool) {
				answer, err := p.request(client, "tcp", pod+":80")
				return answer + fmt.Sprint(err), strings.HasPrefix(answer, target)
			})
		}
		stop.Store(true)
		requests.Wait()
		if answer, err := exchange(other); err == nil {
			t.Errorf("a packet from another source was answered %q", answer)
		}
		t.Logf("%d connections served, %d packets of the other source sent, over 20 changes", served.Load(), sent.Load())
	})
}

func TestAnExistingUDPFlowMovesToTheNewTarget(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		tn := newTestNetwork(t)
		// The test uses one socket, so that connection tracking has one flow.
		conn, err := tn.dial(client, "udp", pod+":53")
		tn.check(err)
		defer conn.Close()
		if answer, err := exchange(conn); err == nil {
			t.Fatalf("answered %q without a proxy", answer)
		}
		p := tn.start(flavour, service(anySource, clusterIP))
		for _, target := range []string{clusterIP, nextClusterIP} {
			p.write(service(anySource, target))
			eventually(t, "the flow reaching "+target, func() (string, bool) {
				answer, err := exchange(conn)
				return answer + fmt.Sprint(err), strings.HasPrefix(answer, target)
			})
		}
	})
}

func TestAnUnansweredConnectionMovesToTheNewTarget(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newTestNetwork(t).start(flavour, service(anySource, deadClusterIP))
		p.awaitReady()
		type answer struct {
			text string
			err  error
		}
		answers := make(chan answer)
		go func() {
			// The kernel retransmits the SYN after a second, from the same port.
			conn, err := p.dialFor(longTimeout, client, "tcp", pod+":80")
			if err != nil {
				answers <- answer{err: err}
				return
			}
			defer conn.Close()
			text, err := exchangeFor(longTimeout, conn)
			answers <- answer{text, err}
		}()
		eventually(t, "the connection's SYN", func() (string, bool) {
			metrics, _ := p.get("/metrics")
			return metrics, strings.Contains(metrics, `port_connections_total{family="IPv4",protocol="TCP",port="80"} 1`)
		})
		p.write(service(anySource, nextClusterIP))
		if got := <-answers; got.err != nil || !strings.HasPrefix(got.text, nextClusterIP) {
			t.Errorf("answered %q, %v, want %s", got.text, got.err, nextClusterIP)
		}
	})
}

func TestIPv6IsForwardedWhereForwardingIsOn(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newTestNetwork(t).start(flavour, service(anySource, clusterIP, clusterIP6))
		p.awaitNotReady("net.ipv6.conf.all.forwarding=1")
		p.wantAnswer(client, "tcp", pod+":80", clusterIP)
		p.do("pod", binary+" --forward-ipv6")
		p.awaitReady()
		address := net.JoinHostPort(pod6, "80")
		p.wantAnswer("fd00:51::2", "tcp", address, "["+clusterIP6+"]:80 from "+pod6)
		p.write(service(`"0.0.0.0/0"`, clusterIP, clusterIP6))
		eventually(t, "no answer to IPv6 clients", func() (string, bool) {
			answer, err := p.request("fd00:51::2", "tcp", address)
			return answer, errors.Is(err, errTimeout)
		})
	})
}

func TestADrainingProxyServesAndARestartedOneUsesItsOwnConfig(t *testing.T) {
	tn := newTestNetwork(t)
	first := tn.start("nft", strings.Replace(service(anySource, clusterIP), "{", `{"drainSeconds":1,`, 1))
	first.awaitReady()
	begin := time.Now()
	tn.check(first.cmd.Process.Signal(syscall.SIGTERM))
	first.awaitNotReady("being drained")
	first.wantAnswer(client, "tcp", pod+":80", clusterIP)
	tn.check(first.cmd.Wait())
	if took := time.Since(begin); took < time.Second {
		t.Errorf("it ended after %s, before its drain time", took)
	}
	tn.wantAnswer(client, "tcp", pod+":80", clusterIP)
	second := tn.start("nft", service(anySource, nextClusterIP))
	second.awaitReady()
	tn.wantAnswer(client, "tcp", pod+":80", nextClusterIP)
}

func TestAnInvalidPacketIsNotAnsweredWithAReset(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		tn := newTestNetwork(t)
		// Without rules the pod's own TCP stack answers it with a reset.
		if !tn.strayIsReset() {
			t.Error("a stray SYN-ACK was not reset without the proxy, so this test proves nothing")
		}
		tn.start(flavour, service(anySource, clusterIP)).awaitReady()
		if tn.strayIsReset() {
			t.Error("a stray SYN-ACK was answered with a reset, which ends the client's connection")
		}
	})
}

// strayIsReset sends the pod a SYN-ACK without a connection and reports whether
// a reset comes back.
func (tn *testNetwork) strayIsReset() bool {
	tn.t.Helper()
	var conn *net.IPConn
	tn.check(tn.on("client", func() (err error) {
		conn, err = net.DialIP("ip4:tcp", nil, &net.IPAddr{IP: net.ParseIP(pod)})
		return err
	}))
	defer conn.Close()
	const sourcePort, rst = 4321, 0x04
	_, err := conn.Write(synAck(net.ParseIP(client).To4(), net.ParseIP(pod).To4(), sourcePort, 80))
	tn.check(err)
	tn.check(conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)))
	for buffer := make([]byte, 100); ; {
		n, _, err := conn.ReadFrom(buffer) // unlike Read, without the IP header
		if err != nil {
			return false
		}
		if n >= 14 && binary16(buffer[2:]) == sourcePort && buffer[13]&rst != 0 {
			return true
		}
	}
}

func binary16(b []byte) int { return int(b[0])<<8 | int(b[1]) }

// synAck returns a SYN-ACK segment with its checksum.
func synAck(from, to net.IP, fromPort, toPort uint16) []byte {
	segment := []byte{byte(fromPort >> 8), byte(fromPort), byte(toPort >> 8), byte(toPort),
		0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, 0x12, 0x10, 0, 0, 0, 0, 0}
	pseudo := slices.Concat(from, to, []byte{0, syscall.IPPROTO_TCP, 0, byte(len(segment))}, segment)
	sum := 0
	for i := 0; i < len(pseudo); i += 2 {
		sum += binary16(pseudo[i:])
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum + sum>>16)
	segment[16], segment[17] = byte(sum>>8), byte(sum)
	return segment
}
