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

// The lab's addresses. The client dials the pod; the node routes between client,
// pod and service, whose host holds the cluster IPs.
const (
	client, otherClient      = "198.51.100.2", "198.51.100.3"
	pod, pod6                = "10.1.0.5", "fd00:1::5"
	clusterIP, nextClusterIP = "10.96.0.7", "10.96.0.8"
	clusterIP6               = "fd00:96::7"
	// emptyClusterIP is rejected by the node, as kube-proxy does for a Service
	// without endpoints.
	emptyClusterIP = "10.96.0.9"
	// deadClusterIP swallows what is sent to it.
	deadClusterIP = "10.96.0.10"
	// routeMTU is what the pod knows of the way to the cluster IPs.
	routeMTU = 1300
)

// lab is a client, a node, a pod and a service host, each in a network namespace
// of its own, with real interfaces between them.
type lab struct {
	t      *testing.T
	prefix string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	l := &lab{t: t, prefix: fmt.Sprintf("hpnp%d%x-", os.Getpid(), time.Now().UnixNano()&0xffff)}
	for _, host := range []string{"client", "node", "pod", "svc"} {
		run0(t, "ip", "netns", "add", l.prefix+host)
		t.Cleanup(func() { run0(t, "ip", "netns", "del", l.prefix+host) })
		// Duplicate address detection would delay IPv6 by a second or two.
		l.do(host, "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
	}
	for host, nets := range map[string][2]string{
		"client": {"198.51.100", "fd00:51:"}, "pod": {"10.1.0", "fd00:1:"}, "svc": {"10.2.0", "fd00:2:"},
	} {
		l.do("node", fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s%s", host, l.prefix, host))
		l.do("node", fmt.Sprintf("ip link set %s up; ip addr add %s.1/24 dev %s; ip addr add %s:1/64 dev %s nodad", host, nets[0], host, nets[1], host))
		l.do(host, fmt.Sprintf("ip link set eth0 up; ip addr add %s.%s/24 dev eth0; ip addr add %s:%s/64 dev eth0 nodad", nets[0], last(host), nets[1], last(host)))
		l.do(host, fmt.Sprintf("ip route add default via %s.1; ip -6 route add default via %s:1", nets[0], nets[1]))
	}
	l.do("client", "ip addr add "+otherClient+"/24 dev eth0")
	l.do("node", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; "+
		"ip route add 10.96.0.0/24 via 10.2.0.5; ip -6 route add fd00:96::/64 via fd00:2::5; iptables-nft -A FORWARD -d "+emptyClusterIP+" -j REJECT; iptables-nft -A FORWARD -d "+deadClusterIP+" -j DROP")
	l.do("svc", fmt.Sprintf("ip addr add %s/32 dev lo; ip addr add %s/32 dev lo; ip addr add %s/128 dev lo nodad", clusterIP, nextClusterIP, clusterIP6))
	// The hard case: nothing forwards in the pod. A new namespace may have
	// inherited the opposite.
	l.do("pod", fmt.Sprintf("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; "+
		"ip route add 10.96.0.0/24 via 10.1.0.1 mtu %d", routeMTU))
	l.serve()
	return l
}

func last(host string) string {
	if host == "client" {
		return "2"
	}
	return "5"
}

func run0(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// do runs a shell command on a host.
func (l *lab) do(host, command string) {
	l.t.Helper()
	run0(l.t, "ip", "netns", "exec", l.prefix+host, "sh", "-ec", command)
}

// on calls f on a thread in the host's namespace. What f opens stays there.
func (l *lab) on(host string, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(l.prefix + host)
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

// serve answers on every cluster IP, TCP and UDP, with the address dialled, the
// address it was dialled from and, for TCP, the segment size agreed.
func (l *lab) serve() {
	l.t.Helper()
	for _, ip := range []string{clusterIP, nextClusterIP, clusterIP6} {
		for _, port := range []string{"80", "81"} {
			l.check(l.on("svc", func() error { return l.serveTCP(net.JoinHostPort(ip, port)) }))
		}
		l.check(l.on("svc", func() error { return l.serveUDP(net.JoinHostPort(ip, "53")) }))
	}
}

func (l *lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) serveTCP(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	l.t.Cleanup(func() { listener.Close() })
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

func (l *lab) serveUDP(address string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	l.t.Cleanup(func() { conn.Close() })
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

// errSilence is what ask returns when packets are dropped: nobody answers.
var errSilence = errors.New("no answer in time")

const (
	// silence is how long to wait for an answer that should not come.
	silence = 700 * time.Millisecond
	// patience is how long to wait for one that should, on a slow machine.
	patience = 20 * time.Second
)

// ask dials from an address of the client's and returns the answer.
func (l *lab) ask(from, network, address string) (answer string, err error) {
	return l.askFor(silence, from, network, address)
}

func (l *lab) askFor(limit time.Duration, from, network, address string) (answer string, err error) {
	conn, err := l.dialFor(limit, from, network, address)
	if err == nil {
		defer conn.Close()
		answer, err = exchangeFor(limit, conn)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = errSilence
	}
	return answer, err
}

func (l *lab) dial(from, network, address string) (net.Conn, error) {
	return l.dialFor(silence, from, network, address)
}

func (l *lab) dialFor(limit time.Duration, from, network, address string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: limit}
	if network == "udp" {
		dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	} else {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	err = l.on("client", func() error {
		conn, err = dialer.Dial(network, address)
		return err
	})
	return conn, err
}

func exchange(conn net.Conn) (string, error) { return exchangeFor(silence, conn) }

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

// proxy is the real program running in the lab's pod.
type proxy struct {
	*lab
	cmd    *exec.Cmd
	config string
	// bin holds the iptables programs it finds.
	bin string
}

// confine runs a program as the manifests let the proxy run: uid 0 with two
// capabilities, no way to more, and /proc/sys read-only.
const confine = `mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys &&
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+net_admin,+net_raw "$@"`

// start runs the program with one flavour of iptables at hand.
func (l *lab) start(flavour, config string, flags ...string) *proxy {
	l.t.Helper()
	dir := l.t.TempDir()
	p := &proxy{lab: l, config: filepath.Join(dir, "config.json"), bin: filepath.Join(dir, "bin")}
	l.check(os.Mkdir(p.bin, 0o755))
	for _, name := range []string{"iptables-" + flavour, "ip6tables-" + flavour} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			l.check(os.Symlink("/usr/sbin/"+name+suffix, filepath.Join(p.bin, name+suffix)))
		}
	}
	p.write(config)
	args := append([]string{"-m", "sh", "-ec", confine, "sh", binary, "--config-file=" + p.config, "--sync-period=200ms", "-v=4"}, flags...)
	p.cmd = exec.Command("/usr/bin/unshare", args...)
	p.cmd.Env = []string{"PATH=" + p.bin + ":/usr/bin:/bin", "XTABLES_LOCKFILE=" + filepath.Join(dir, "xtables.lock")}
	log, err := os.Create(filepath.Join(dir, "log"))
	l.check(err)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	l.check(l.on("pod", p.cmd.Start))
	l.t.Cleanup(func() { p.stop(); p.showLog(log) })
	return p
}

func (p *proxy) stop() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill() // its farewell takes time
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

// get asks the proxy's health endpoint, from within the pod.
func (p *proxy) get(path string) (body string, status int) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
		err = p.on("pod", func() error {
			conn, err = net.DialTimeout("tcp", "127.0.0.1:10270", time.Second)
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

// eventually waits for ok, which also returns what it saw.
func eventually(t *testing.T, what string, ok func() (seen string, done bool)) {
	t.Helper()
	var seen string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var done bool
		if seen, done = ok(); done {
			return
		}
	}
	t.Fatalf("%s did not happen; seen at last: %s", what, seen)
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
