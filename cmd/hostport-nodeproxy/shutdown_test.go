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

// clientPath is the path of a client's packets in one IP family. The client
// connects to the node, which translates ports to the pod as for a hostPort.
type clientPath struct {
	client, node, pod, clusterIP string
	iptables                     string
	family                       netlink.InetFamily
}

var paths = []clientPath{
	{client, "198.51.100.1", pod, clusterIP, "iptables-nft", unix.AF_INET},
	{"fd00:51::2", "fd00:51::1", pod6, clusterIP6, "ip6tables-nft", unix.AF_INET6},
}

// testedPort is a port for which the test has both ends of each connection.
const testedPort = "82"

// mapPorts makes the node translate the ports, track connections, and drop
// INVALID packets, as kube-proxy does.
func (tn *testNetwork) mapPorts(path clientPath, ports ...string) {
	tn.t.Helper()
	tn.do("node", path.iptables+" -I FORWARD -m conntrack --ctstate INVALID -j DROP")
	for _, port := range ports {
		tn.do("node", fmt.Sprintf("%s -t nat -A PREROUTING -p tcp -d %s --dport %s -j DNAT --to-destination %s", path.iptables, path.node, port, path.pod))
	}
}

// end is one end of a connection and the error that ended it.
type end struct {
	net.Conn
	err error
}

// use sends or only receives until the connection ends.
func (e *end) use(sends bool) {
	for deadline := time.Now().Add(longTimeout); e.err == nil && time.Now().Before(deadline); {
		if sends {
			_, e.err = e.Write([]byte("?"))
		}
		if e.err == nil {
			e.err = e.receive(50 * time.Millisecond)
		}
	}
}

// receive reads until the limit. It returns an error if the connection ends.
func (e *end) receive(limit time.Duration) error {
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
func (tn *testNetwork) connect(listener net.Listener, path clientPath) (client, target *end) {
	tn.t.Helper()
	dialled, err := tn.dialFor(longTimeout, path.client, "tcp", net.JoinHostPort(path.node, testedPort))
	tn.check(err)
	accepted, err := listener.Accept()
	tn.check(err)
	tn.t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return &end{Conn: dialled}, &end{Conn: accepted}
}

func (tn *testNetwork) listenAt(address string) (listener net.Listener) {
	tn.t.Helper()
	tn.check(tn.on("svc", func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	}))
	tn.t.Cleanup(func() { listener.Close() })
	return listener
}

// established returns how many established connections of the client the node
// tracks.
func (tn *testNetwork) established(path clientPath) (n int) {
	tn.t.Helper()
	const established = 3 // TCP_CONNTRACK_ESTABLISHED
	tn.check(tn.on("node", func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, path.family)
		for _, flow := range flows {
			tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
			if ok && tcp.State == established && flow.Forward.SrcIP.Equal(net.ParseIP(path.client)) {
				n++
			}
		}
		return err
	}))
	return n
}

func TestAtShutdownConnectionsInUseAreResetAndNewOnesServed(t *testing.T) {
	inBothFlavours(t, func(t *testing.T, flavour string) {
		tn := newTestNetwork(t)
		p := tn.start(flavour, fmt.Sprintf(`{"service":"default/web","drainSeconds":1,"ports":[{"port":80},{"port":%s}],"clusterIPs":["%s","%s"],"sourceRanges":[%s]}`,
			testedPort, clusterIP, clusterIP6, anySource))
		p.do("pod", binary+" --forward-ipv6")
		p.awaitReady()
		for _, path := range paths {
			tn.mapPorts(path, "80", testedPort)
		}
		var ended sync.WaitGroup
		var checks []func()
		for _, path := range paths {
			listener := tn.listenAt(net.JoinHostPort(path.clusterIP, testedPort))
			sender, _ := tn.connect(listener, path)
			receiver, target := tn.connect(listener, path)
			idle, _ := tn.connect(listener, path)
			ended.Go(func() { sender.use(true) })
			ended.Go(func() { receiver.use(false) })
			ended.Go(func() { target.use(true) })
			checks = append(checks, func() {
				for name, e := range map[string]*end{"a client that sends": sender, "a client that only receives": receiver, "the target that sends to it": target} {
					if !errors.Is(e.err, syscall.ECONNRESET) {
						t.Errorf("%s at %s got %v, want a reset", name, path.node, e.err)
					}
				}
				if err := idle.receive(time.Millisecond); err != nil {
					t.Errorf("an idle client at %s got %v", path.node, err)
				}
				if n := tn.established(path); n != 1 {
					t.Errorf("the node tracks %d established connections from %s, want the idle one", n, path.client)
				}
			})
		}
		requests := tn.requestUntil(ended.Wait)
		tn.check(p.cmd.Process.Signal(syscall.SIGTERM))
		requests.Wait()
		for _, check := range checks {
			check()
		}
		tn.check(p.cmd.Wait())
	})
}

// requestUntil sends requests on all paths until done returns. Only a request
// that lasts longer than the first step of the reset may fail, as its connection
// can be older than the marks.
func (tn *testNetwork) requestUntil(done func()) *sync.WaitGroup {
	const firstStep = time.Second
	over := make(chan struct{})
	go func() { defer close(over); done() }()
	var requests sync.WaitGroup
	for _, path := range paths {
		requests.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					tn.t.Logf("%d connections to %s", n, path.node)
					return
				default:
				}
				began := time.Now()
				_, err := tn.requestFor(longTimeout, path.client, "tcp", net.JoinHostPort(path.node, "80"))
				if took := time.Since(began); err != nil && took < firstStep {
					tn.t.Errorf("a new connection to %s failed after %s: %v", path.node, took, err)
				}
			}
		})
	}
	return &requests
}
