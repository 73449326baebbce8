package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// The addresses of the test network. The client connects to the pod. The node
// routes between client, pod and the service host, which has the cluster IPs.
const (
	client, otherClient      = "198.51.100.2", "198.51.100.3"
	pod, pod6                = "10.1.0.5", "fd00:1::5"
	clusterIP, nextClusterIP = "10.96.0.7", "10.96.0.8"
	clusterIP6               = "fd00:96::7"
	// emptyClusterIP is a cluster IP that the node rejects, as kube-proxy does for
	// a Service without endpoints.
	emptyClusterIP = "10.96.0.9"
	// deadClusterIP is a cluster IP whose packets the node drops.
	deadClusterIP = "10.96.0.10"
	// routeMTU is the MTU of the pod's route to the cluster IPs.
	routeMTU = 1300
)

// testNetwork is a client, a node, a pod and a service host. Each is a network
// namespace, and veth interfaces connect them.
type testNetwork struct {
	t      *testing.T
	prefix string
}

func newTestNetwork(t *testing.T) *testNetwork {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	tn := &testNetwork{t: t, prefix: fmt.Sprintf("hpnp%d%x-", os.Getpid(), time.Now().UnixNano()&0xffff)}
	for _, host := range []string{"client", "node", "pod", "svc"} {
		mustRun(t, "ip", "netns", "add", tn.prefix+host)
		t.Cleanup(func() { mustRun(t, "ip", "netns", "del", tn.prefix+host) })
		// Without duplicate address detection, IPv6 works a second or two earlier.
		tn.do(host, "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
	}
	for host, nets := range map[string][2]string{
		"client": {"198.51.100", "fd00:51:"}, "pod": {"10.1.0", "fd00:1:"}, "svc": {"10.2.0", "fd00:2:"},
	} {
		tn.do("node", fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s%s", host, tn.prefix, host))
		tn.do("node", fmt.Sprintf("ip link set %s up; ip addr add %s.1/24 dev %s; ip addr add %s:1/64 dev %s nodad", host, nets[0], host, nets[1], host))
		tn.do(host, fmt.Sprintf("ip link set eth0 up; ip addr add %s.%s/24 dev eth0; ip addr add %s:%s/64 dev eth0 nodad", nets[0], lastOctet(host), nets[1], lastOctet(host)))
		tn.do(host, fmt.Sprintf("ip route add default via %s.1; ip -6 route add default via %s:1", nets[0], nets[1]))
	}
	tn.do("client", "ip addr add "+otherClient+"/24 dev eth0")
	tn.do("node", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; "+
		"ip route add 10.96.0.0/24 via 10.2.0.5; ip -6 route add fd00:96::/64 via fd00:2::5; iptables-nft -A FORWARD -d "+emptyClusterIP+" -j REJECT; iptables-nft -A FORWARD -d "+deadClusterIP+" -j DROP")
	tn.do("svc", fmt.Sprintf("ip addr add %s/32 dev lo; ip addr add %s/32 dev lo; ip addr add %s/128 dev lo nodad", clusterIP, nextClusterIP, clusterIP6))
	// Forwarding is off in the pod. A new namespace can inherit the opposite.
	tn.do("pod", fmt.Sprintf("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; "+
		"ip route add 10.96.0.0/24 via 10.1.0.1 mtu %d", routeMTU))
	tn.serve()
	return tn
}

func lastOctet(host string) string {
	if host == "client" {
		return "2"
	}
	return "5"
}

func mustRun(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// do runs a shell command on a host.
func (tn *testNetwork) do(host, command string) {
	tn.t.Helper()
	mustRun(tn.t, "ip", "netns", "exec", tn.prefix+host, "sh", "-ec", command)
}

// output returns what a shell command prints on a host.
func (tn *testNetwork) output(host, command string) string {
	tn.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", tn.prefix+host, "sh", "-ec", command).CombinedOutput()
	if err != nil {
		tn.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// on calls f on a thread in the host's namespace. Sockets that f opens stay in
// it.
func (tn *testNetwork) on(host string, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		ns, err := netns.GetFromName(tn.prefix + host)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// serve answers requests to every cluster IP. The answer names the destination,
// the source and, for TCP, the segment size.
func (tn *testNetwork) serve() {
	tn.t.Helper()
	for _, ip := range []string{clusterIP, nextClusterIP, clusterIP6} {
		for _, port := range []string{"80", "81"} {
			tn.check(tn.on("svc", func() error { return tn.serveTCP(net.JoinHostPort(ip, port)) }))
		}
		tn.check(tn.on("svc", func() error { return tn.serveUDP(net.JoinHostPort(ip, "53")) }))
	}
}

func (tn *testNetwork) check(err error) {
	tn.t.Helper()
	if err != nil {
		tn.t.Fatal(err)
	}
}

func (tn *testNetwork) serveTCP(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	tn.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			fmt.Fprintf(conn, "%s from %s mss %d", address, from, segmentSize(conn.(*net.TCPConn)))
			conn.Close()
		}
	}()
	return nil
}

func segmentSize(conn *net.TCPConn) (size int) {
	raw, err := conn.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			size, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG)
		})
	}
	return size
}

func (tn *testNetwork) serveUDP(address string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	tn.t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 100)
		for {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			_, _ = conn.WriteTo(fmt.Appendf(nil, "%s from %s", address, host), from)
		}
	}()
	return nil
}

// errTimeout is the error of a request that is not answered, as when packets are
// dropped.
var errTimeout = errors.New("no answer in time")

const (
	// shortTimeout is how long a test waits for an answer that it does not expect.
	shortTimeout = 700 * time.Millisecond
	// longTimeout is how long it waits for one that it expects, on a slow machine.
	longTimeout = 20 * time.Second
)

// request sends a request from an address of the client and returns the answer.
func (tn *testNetwork) request(from, network, address string) (answer string, err error) {
	return tn.requestFor(shortTimeout, from, network, address)
}

func (tn *testNetwork) requestFor(limit time.Duration, from, network, address string) (answer string, err error) {
	conn, err := tn.dialFor(limit, from, network, address)
	if err == nil {
		defer conn.Close()
		answer, err = exchangeFor(limit, conn)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = errTimeout
	}
	return answer, err
}

func (tn *testNetwork) dial(from, network, address string) (net.Conn, error) {
	return tn.dialFor(shortTimeout, from, network, address)
}

func (tn *testNetwork) dialFor(limit time.Duration, from, network, address string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: limit}
	if network == "udp" {
		dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	} else {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	err = tn.on("client", func() error {
		conn, err = dialer.Dial(network, address)
		return err
	})
	return conn, err
}

func exchange(conn net.Conn) (string, error) { return exchangeFor(shortTimeout, conn) }

func exchangeFor(limit time.Duration, conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	if conn.RemoteAddr().Network() == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
		buffer := make([]byte, 100)
		n, err := conn.Read(buffer)
		return string(buffer[:n]), err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// proxy is the program that runs in the pod.
type proxy struct {
	*testNetwork
	cmd    *exec.Cmd
	config string
	// bin is the directory of its iptables programs.
	bin string
}

// confine runs a program with the privileges of the proxy's container: uid 0 with
// two capabilities, no_new_privs, and a read-only /proc/sys.
const confine = `mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys &&
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+net_admin,+net_raw "$@"`

// start runs the program with one flavour of iptables.
func (tn *testNetwork) start(flavour, config string, flags ...string) *proxy {
	tn.t.Helper()
	dir := tn.t.TempDir()
	p := &proxy{testNetwork: tn, config: filepath.Join(dir, "config.json"), bin: filepath.Join(dir, "bin")}
	tn.check(os.Mkdir(p.bin, 0o755))
	for _, name := range []string{"iptables-" + flavour, "ip6tables-" + flavour} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			tn.check(os.Symlink("/usr/sbin/"+name+suffix, filepath.Join(p.bin, name+suffix)))
		}
	}
	p.write(config)
	args := append([]string{"-m", "sh", "-ec", confine, "sh", binary, "--config-file=" + p.config, "--sync-period=200ms", "-v=4"}, flags...)
	p.cmd = exec.Command("/usr/bin/unshare", args...)
	p.cmd.Env = []string{"PATH=" + p.bin + ":/usr/bin:/bin", "XTABLES_LOCKFILE=" + filepath.Join(dir, "xtables.lock")}
	log, err := os.Create(filepath.Join(dir, "log"))
	tn.check(err)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	tn.check(tn.on("pod", p.cmd.Start))
	tn.t.Cleanup(func() { p.stop(); p.showLog(log) })
	return p
}

func (p *proxy) stop() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill() // SIGTERM would take longer
		_ = p.cmd.Wait()
	}
}

func (p *proxy) showLog(log *os.File) {
	defer log.Close()
	if data, err := os.ReadFile(log.Name()); err == nil && p.t.Failed() {
		p.t.Logf("the proxy's log:\n%s", data)
	}
}

// write replaces the config in one step, as the kubelet does.
func (p *proxy) write(config string) {
	p.t.Helper()
	p.check(os.WriteFile(p.config+".new", []byte(config), 0o600))
	p.check(os.Rename(p.config+".new", p.config))
}

// get sends a request to the proxy's endpoints from within the pod.
func (p *proxy) get(path string) (body string, status int) {
	address := "127.0.0.1:10271"
	if path == "/metrics" {
		address = "127.0.0.1:10270"
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
		err = p.on("pod", func() error {
			conn, err = net.DialTimeout("tcp", address, time.Second)
			return err
		})
		return conn, err
	}}
	response, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("http://pod" + path)
	if err != nil {
		return err.Error(), 0
	}
	defer response.Body.Close()
	data, _ := io.ReadAll(response.Body)
	return string(data), response.StatusCode
}

// eventually waits until ok returns true. ok also returns what it observed.
func eventually(t *testing.T, what string, ok func() (observed string, done bool)) {
	t.Helper()
	var observed string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var done bool
		if observed, done = ok(); done {
			return
		}
	}
	t.Fatalf("%s did not happen; observed last: %s", what, observed)
}

func (p *proxy) awaitReady() {
	p.t.Helper()
	eventually(p.t, "becoming ready", func() (string, bool) {
		body, status := p.get("/readyz")
		return body, status == http.StatusOK
	})
}

func (p *proxy) awaitNotReady(because string) {
	p.t.Helper()
	eventually(p.t, "being not ready because of "+because, func() (string, bool) {
		body, status := p.get("/readyz")
		return body, status == http.StatusServiceUnavailable && strings.Contains(body, because)
	})
}
