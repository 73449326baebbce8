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
	everybody  = `"0.0.0.0/0","::/0"`
	onlyClient = `"` + client + `/32"`
)

// inBothFlavours runs a test once per flavour of iptables.
func inBothFlavours(t *testing.T, test func(t *testing.T, flavour string)) {
	for _, flavour := range []string{"nft", "legacy"} {
		t.Run(flavour, func(t *testing.T) { test(t, flavour) })
	}
}

// wantAnswer asks and compares the answer's beginning.
func (l *lab) wantAnswer(from, network, address, want string) {
	l.t.Helper()
	if got, err := l.askFor(patience, from, network, address); err != nil || !strings.HasPrefix(got, want) {
		l.t.Errorf("%s %s from %s answered %q, %v, want %q", network, address, from, got, err, want)
	}
}

func (l *lab) wantError(from, network, address string, want error) {
	l.t.Helper()
	if got, err := l.ask(from, network, address); !errors.Is(err, want) {
		l.t.Errorf("%s %s from %s answered %q, %v, want error %v", network, address, from, got, err, want)
	}
}

func TestPortsAreForwardedMasqueradedAndNothingElseIs(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		l := newLab(t)
		l.wantError(client, "tcp", pod+":80", syscall.ECONNREFUSED)
		p := l.start(flavour, service(everybody, clusterIP))
		p.awaitReady()
		p.wantAnswer(client, "tcp", pod+":80", clusterIP+":80 from "+pod)
		p.wantAnswer(client, "udp", pod+":53", clusterIP+":53 from "+pod)
		p.wantError(client, "tcp", pod+":81", syscall.ECONNREFUSED)
		p.wantError(client, "tcp", pod+":53", syscall.ECONNREFUSED)
		// A pod that forwards must not become a router to everything behind it.
		p.do("client", "ip route add 10.2.0.0/24 via 198.51.100.1")
		p.do("node", "ip rule add iif client to 10.2.0.5 lookup 7; ip route add default via "+pod+" table 7")
		p.wantError(client, "tcp", "10.2.0.5:80", errSilence)
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
		p.wantSmall()
	})
}

// wantSmall checks the resident memory, after some use, against the goal of
// 10 MiB.
func (p *proxy) wantSmall() {
	p.t.Helper()
	for range 50 {
		p.get("/metrics")
		p.get("/readyz")
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	p.check(err)
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	p.check(err)
	p.t.Logf("resident: %d KiB", kib)
	if kib > 10<<10 {
		p.t.Errorf("the proxy takes %d KiB of memory, want at most 10 MiB", kib)
	}
}

func TestSegmentsAreClampedToThePath(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newLab(t).start(flavour, service(everybody, clusterIP))
		p.awaitReady()
		answer, err := p.ask(client, "tcp", pod+":80")
		p.check(err)
		_, size, _ := strings.Cut(answer, " mss ")
		if got, err := strconv.Atoi(size); err != nil || got > routeMTU-40 {
			t.Errorf("answer %q: want a segment size of at most %d", answer, routeMTU-40)
		}
	})
}

func TestSourceRangesAreEnforcedAndFollowed(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newLab(t).start(flavour, service(onlyClient, clusterIP))
		p.awaitReady()
		p.wantAnswer(client, "tcp", pod+":80", clusterIP)
		p.wantAnswer(client, "udp", pod+":53", clusterIP)
		p.wantError(otherClient, "tcp", pod+":80", errSilence)
		p.wantError(otherClient, "udp", pod+":53", errSilence)
		p.write(service(`"`+otherClient+`/32"`, clusterIP))
		eventually(t, "letting in the other client", func() (string, bool) {
			answer, err := p.ask(otherClient, "tcp", pod+":80")
			return answer + fmt.Sprint(err), err == nil
		})
		p.wantError(client, "tcp", pod+":80", errSilence)
		p.write(service("", clusterIP))
		eventually(t, "letting in nobody", func() (string, bool) {
			answer, err := p.ask(otherClient, "tcp", pod+":80")
			return answer, errors.Is(err, errSilence)
		})
	})
}

func TestRejectionReachesTheClient(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newLab(t).start(flavour, service(onlyClient, emptyClusterIP))
		p.awaitReady()
		p.wantError(client, "tcp", pod+":80", syscall.ECONNREFUSED)
		p.wantError(client, "udp", pod+":53", syscall.ECONNREFUSED)
	})
}

func TestWipedRulesAreRepairedAndNotReadyUntilThen(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newLab(t).start(flavour, service(everybody, clusterIP))
		p.awaitReady()
		// Without its restore program the proxy cannot repair, so that what it
		// says meanwhile can be seen.
		restore := filepath.Join(p.bin, "iptables-"+flavour+"-restore")
		p.check(os.Rename(restore, restore+".away"))
		p.do("pod", "for t in nat filter mangle; do iptables-"+flavour+" -t $t -F; iptables-"+flavour+" -t $t -X; done")
		p.awaitNotReady("IPv4 rules")
		p.check(os.Rename(restore+".away", restore))
		p.awaitReady()
		p.wantAnswer(client, "tcp", pod+":80", clusterIP)
		// And with it, within a pass or two.
		p.do("pod", "iptables-"+flavour+" -t nat -F")
		eventually(t, "the repair", func() (string, bool) {
			answer, err := p.ask(client, "tcp", pod+":80")
			return fmt.Sprint(err), err == nil && strings.HasPrefix(answer, clusterIP)
		})
	})
}

func TestAConfigChangeLosesNoConnectionAndLetsNobodyIn(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newLab(t).start(flavour, service(onlyClient, clusterIP))
		p.awaitReady()
		var stop atomic.Bool
		var served, refused atomic.Int64
		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				for !stop.Load() {
					if _, err := p.askFor(patience, client, "tcp", pod+":80"); err != nil {
						t.Errorf("a wanted connection was lost: %v", err)
					}
					served.Add(1)
				}
			})
		}
		// UDP for the unwanted one: it need not wait for each answer to be missing.
		unwanted, err := p.dial(otherClient, "udp", pod+":53")
		p.check(err)
		defer unwanted.Close()
		asking.Go(func() {
			for !stop.Load() {
				if _, err := unwanted.Write([]byte("?")); err != nil {
					t.Errorf("an unwanted packet was not dropped in silence: %v", err)
				}
				refused.Add(1)
				time.Sleep(100 * time.Microsecond)
			}
		})
		for i := range 20 {
			target := []string{clusterIP, nextClusterIP}[i%2]
			p.write(service(onlyClient+fmt.Sprintf(`,"203.0.113.%d/32"`, i), target))
			eventually(t, "following the change", func() (string, bool) {
				answer, err := p.ask(client, "tcp", pod+":80")
				return answer + fmt.Sprint(err), strings.HasPrefix(answer, target)
			})
		}
		stop.Store(true)
		asking.Wait()
		if answer, err := exchange(unwanted); err == nil {
			t.Errorf("an unwanted packet was answered %q", answer)
		}
		t.Logf("%d connections served, %d packets dropped, over 20 changes", served.Load(), refused.Load())
	})
}

func TestAUDPFlowFollowsTheConfig(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		l := newLab(t)
		// One socket throughout, so that conntrack keeps seeing the same flow.
		conn, err := l.dial(client, "udp", pod+":53")
		l.check(err)
		defer conn.Close()
		if answer, err := exchange(conn); err == nil {
			t.Fatalf("answered %q without a proxy", answer)
		}
		p := l.start(flavour, service(everybody, clusterIP))
		for _, target := range []string{clusterIP, nextClusterIP} {
			p.write(service(everybody, target))
			eventually(t, "the flow reaching "+target, func() (string, bool) {
				answer, err := exchange(conn)
				return answer + fmt.Sprint(err), strings.HasPrefix(answer, target)
			})
		}
	})
}

func TestAConnectionThatWaitsForADeadTargetReachesTheNextOne(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newLab(t).start(flavour, service(everybody, deadClusterIP))
		p.awaitReady()
		type answer struct {
			text string
			err  error
		}
		answers := make(chan answer)
		go func() {
			// The kernel repeats the first segment after a second, from the same port.
			conn, err := p.dialFor(patience, client, "tcp", pod+":80")
			if err != nil {
				answers <- answer{err: err}
				return
			}
			defer conn.Close()
			text, err := exchangeFor(patience, conn)
			answers <- answer{text, err}
		}()
		eventually(t, "the connection's first segment", func() (string, bool) {
			metrics, _ := p.get("/metrics")
			return metrics, strings.Contains(metrics, `port_connections_total{family="IPv4",protocol="TCP",port="80"} 1`)
		})
		p.write(service(everybody, nextClusterIP))
		if got := <-answers; got.err != nil || !strings.HasPrefix(got.text, nextClusterIP) {
			t.Errorf("answered %q, %v, want %s", got.text, got.err, nextClusterIP)
		}
	})
}

func TestIPv6IsForwardedWhereForwardingIsOn(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		p := newLab(t).start(flavour, service(everybody, clusterIP, clusterIP6))
		p.awaitNotReady("net.ipv6.conf.all.forwarding=1")
		p.wantAnswer(client, "tcp", pod+":80", clusterIP)
		p.do("pod", binary+" --forward-ipv6")
		p.awaitReady()
		address := net.JoinHostPort(pod6, "80")
		p.wantAnswer("fd00:51::2", "tcp", address, "["+clusterIP6+"]:80 from "+pod6)
		p.write(service(`"0.0.0.0/0"`, clusterIP, clusterIP6))
		eventually(t, "letting in no IPv6 client", func() (string, bool) {
			answer, err := p.ask("fd00:51::2", "tcp", address)
			return answer, errors.Is(err, errSilence)
		})
	})
}

func TestARestartedProxyTakesOverAndADrainingOneServes(t *testing.T) {
	l := newLab(t)
	first := l.start("nft", strings.Replace(service(everybody, clusterIP), "{", `{"drainSeconds":1,`, 1))
	first.awaitReady()
	begin := time.Now()
	l.check(first.cmd.Process.Signal(syscall.SIGTERM))
	first.awaitNotReady("being drained")
	first.wantAnswer(client, "tcp", pod+":80", clusterIP)
	l.check(first.cmd.Wait())
	if took := time.Since(begin); took < time.Second {
		t.Errorf("it ended after %s, before its drain time", took)
	}
	l.wantAnswer(client, "tcp", pod+":80", clusterIP)
	second := l.start("nft", service(everybody, nextClusterIP))
	second.awaitReady()
	l.wantAnswer(client, "tcp", pod+":80", nextClusterIP)
}

func TestAnInvalidPacketIsNotAnsweredWithAReset(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		l := newLab(t)
		// The control: without rules the pod's own TCP resets what it does not know.
		if !l.strayIsReset() {
			t.Error("a stray SYN-ACK was not reset without the proxy, so the test shows nothing")
		}
		l.start(flavour, service(everybody, clusterIP)).awaitReady()
		if l.strayIsReset() {
			t.Error("a stray SYN-ACK was answered with a reset, which ends the client's connection")
		}
	})
}

// strayIsReset sends the pod a SYN-ACK that belongs to no connection and says
// whether a reset comes back.
func (l *lab) strayIsReset() bool {
	l.t.Helper()
	var conn *net.IPConn
	l.check(l.on("client", func() (err error) {
		conn, err = net.DialIP("ip4:tcp", nil, &net.IPAddr{IP: net.ParseIP(pod)})
		return err
	}))
	defer conn.Close()
	const sourcePort, rst = 4321, 0x04
	_, err := conn.Write(synAck(net.ParseIP(client).To4(), net.ParseIP(pod).To4(), sourcePort, 80))
	l.check(err)
	l.check(conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)))
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

// synAck returns a TCP segment with its checksum.
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
