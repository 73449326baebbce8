package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// way is a client's way to a Service in one IP family: it dials the node, which
// maps its ports to the pod's as for a hostPort.
type way struct {
	client, node, pod, clusterIP string
	iptables                     string
	family                       netlink.InetFamily
}

var ways = []way{
	{client, "198.51.100.1", pod, clusterIP, "iptables-nft", unix.AF_INET},
	{"fd00:51::2", "fd00:51::1", pod6, clusterIP6, "ip6tables-nft", unix.AF_INET6},
}

// talkPort is a port whose connections the test holds both ends of.
const talkPort = "82"

// mapPorts makes the node track connections, and drop what belongs to none, as
// kube-proxy does.
func (l *lab) mapPorts(w way, ports ...string) {
	l.t.Helper()
	l.do("node", w.iptables+" -I FORWARD -m conntrack --ctstate INVALID -j DROP")
	for _, port := range ports {
		l.do("node", fmt.Sprintf("%s -t nat -A PREROUTING -p tcp -d %s --dport %s -j DNAT --to-destination %s", w.iptables, w.node, port, w.pod))
	}
}

// end is one end of a connection, and what it got to know.
type end struct {
	net.Conn
	err error
}

// until talks or listens until it gets to know something.
func (e *end) until(talks bool) {
	for deadline := time.Now().Add(patience); e.err == nil && time.Now().Before(deadline); {
		if talks {
			_, e.err = e.Write([]byte("?"))
		}
		if e.err == nil {
			e.err = e.listen(50 * time.Millisecond)
		}
	}
}

// listen reads for a while.
func (e *end) listen(limit time.Duration) error {
	if err := e.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err := e.Read(make([]byte, 100))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// connect opens a connection through the pod and returns both ends.
func (l *lab) connect(listener net.Listener, w way) (client, target *end) {
	l.t.Helper()
	dialled, err := l.dialFor(patience, w.client, "tcp", net.JoinHostPort(w.node, talkPort))
	l.check(err)
	accepted, err := listener.Accept()
	l.check(err)
	l.t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return &end{Conn: dialled}, &end{Conn: accepted}
}

func (l *lab) listenAt(address string) (listener net.Listener) {
	l.t.Helper()
	l.check(l.on("svc", func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	}))
	l.t.Cleanup(func() { listener.Close() })
	return listener
}

// established counts the established connections of the way's client that the
// node remembers.
func (l *lab) established(w way) (n int) {
	l.t.Helper()
	const established = 3 // TCP_CONNTRACK_ESTABLISHED
	l.check(l.on("node", func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, w.family)
		for _, flow := range flows {
			tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
			if ok && tcp.State == established && flow.Forward.SrcIP.Equal(net.ParseIP(w.client)) {
				n++
			}
		}
		return err
	}))
	return n
}

func TestAProxyThatEndsResetsConnectionsInUseAndServesNewOnes(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		l := newLab(t)
		p := l.start(flavour, fmt.Sprintf(`{"service":"default/web","drainSeconds":1,"ports":[{"port":80},{"port":%s}],"clusterIPs":["%s","%s"],"sourceRanges":[%s]}`,
			talkPort, clusterIP, clusterIP6, everybody))
		p.do("pod", binary+" --forward-ipv6")
		p.awaitReady()
		for _, w := range ways {
			l.mapPorts(w, "80", talkPort)
		}
		var ended sync.WaitGroup
		var checks []func()
		for _, w := range ways {
			listener := l.listenAt(net.JoinHostPort(w.clusterIP, talkPort))
			talker, _ := l.connect(listener, w)
			hearer, speaker := l.connect(listener, w)
			idle, _ := l.connect(listener, w)
			ended.Go(func() { talker.until(true) })
			ended.Go(func() { hearer.until(false) })
			ended.Go(func() { speaker.until(true) })
			checks = append(checks, func() {
				for name, e := range map[string]*end{"a client that talks": talker, "a client that listens": hearer, "what it listens to": speaker} {
					if !errors.Is(e.err, syscall.ECONNRESET) {
						t.Errorf("%s at %s got to know %v, want a reset", name, w.node, e.err)
					}
				}
				if err := idle.listen(time.Millisecond); err != nil {
					t.Errorf("an idle client at %s got to know %v", w.node, err)
				}
				if n := l.established(w); n != 1 {
					t.Errorf("the node remembers %d connections from %s as established, want the idle one", n, w.client)
				}
			})
		}
		askers := l.askUntil(ended.Wait)
		l.check(p.cmd.Process.Signal(syscall.SIGTERM))
		askers.Wait()
		for _, check := range checks {
			check()
		}
		l.check(p.cmd.Wait())
	})
}

// askUntil connects anew all the time, in all ways, until done returns. Whoever
// was under way for less than the farewell's first step must be answered.
func (l *lab) askUntil(done func()) *sync.WaitGroup {
	const firstStep = time.Second
	over := make(chan struct{})
	go func() { defer close(over); done() }()
	var asking sync.WaitGroup
	for _, w := range ways {
		asking.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					l.t.Logf("%d connections to %s", n, w.node)
					return
				default:
				}
				began := time.Now()
				_, err := l.askFor(patience, w.client, "tcp", net.JoinHostPort(w.node, "80"))
				if took := time.Since(began); err != nil && took < firstStep {
					l.t.Errorf("a new connection to %s failed after %s: %v", w.node, took, err)
				}
			}
		})
	}
	return &asking
}
