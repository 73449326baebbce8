package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// The lab's addresses. A client reaches the backend through the node: routed, by a port of the node
// that is translated to the backend, or by one that is translated to the proxy pod, whose rules
// translate it to the cluster IP.
const (
	nodeIP    = "198.51.100.1"
	podIP     = "10.1.0.5"
	backendIP = "10.2.0.5"
	clusterIP = "10.96.0.7"
	// A second cluster IP has an endpoint of its own.
	secondBackendIP = "10.2.0.6"
	secondClusterIP = "10.96.0.8"
	// clients is how many addresses 198.51.100.N, from 2 on, the client has: a single
	// one has too few ports.
	clients     = 64
	backendPort = "8080"
)

// The paths to the backend.
var (
	routed = netPath{"routed, no NAT", backendIP + ":" + backendPort}
	direct = netPath{"direct: NAT on the node", nodeIP + ":81"}
	proxy  = netPath{"proxy: hostPort, pod, cluster IP", nodeIP + ":80"}
)

// netPath is a path to the backend and the address that the client dials.
type netPath struct{ name, address string }

// lab is the hosts client, node, pod and backend, each in its own network namespace.
type lab struct {
	prefix string
	dir    string
	hosts  []string
	// closers stop what runs in the lab.
	closers []func()
}

// newLab creates the hosts and the node's rules. The lab must be closed even after an error.
func newLab() (*lab, error) {
	l := &lab{prefix: fmt.Sprintf(prefixOf, os.Getpid())}
	if os.Getuid() != 0 {
		return l, errors.New("needs root, to make network namespaces")
	}
	err := removeStale()
	if err != nil {
		return l, err
	}
	if l.dir, err = os.MkdirTemp("", "hostport-bench"); err != nil {
		return l, err
	}
	for _, host := range []string{"client", "node", "pod", "backend"} {
		if err := ip("netns", "add", l.prefix+host); err != nil {
			return l, err
		}
		l.hosts = append(l.hosts, host)
	}
	return l, l.configure()
}

// prefixOf is the format of the prefix of a process's network namespaces.
const prefixOf = "hpbench%d-"

// removeStale removes the hosts of labs whose process was killed.
func removeStale() error {
	namespaces, err := filepath.Glob("/run/netns/hpbench*")
	if err != nil {
		return err
	}
	for _, path := range namespaces {
		var pid int
		name := filepath.Base(path)
		if n, _ := fmt.Sscanf(name, prefixOf, &pid); n == 1 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			if err := ip("netns", "del", name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lab) configure() error {
	var addresses strings.Builder
	for i := range clients {
		fmt.Fprintf(&addresses, "ip addr add 198.51.100.%d/24 dev eth0; ", 2+i)
	}
	// Counted connections have no sockets: without this rule, the kernel would answer
	// their packets with resets.
	const noResets = "; iptables-nft -A OUTPUT -p tcp --tcp-flags RST RST -j DROP"
	for _, step := range [][2]string{
		{"node", l.link("client", nodeIP) + l.link("pod", "10.1.0.1") + l.link("backend", "10.2.0.1")},
		{"client", "ip link set lo up; ip link set eth0 up; " + addresses.String() + "ip route add default via " + nodeIP},
		{"pod", "echo 0 > /proc/sys/net/ipv4/ip_forward; " + up(podIP, "10.1.0.1")},
		{"backend", up(backendIP, "10.2.0.1") + "; ip addr add " + secondBackendIP + "/24 dev eth0; echo 65535 > /proc/sys/net/core/somaxconn" + noResets},
		{"node", "echo 1 > /proc/sys/net/ipv4/ip_forward; " +
			dnat(nodeIP, "81", backendIP+":"+backendPort) + // as kube-proxy does for a mirror Service
			dnat(nodeIP, "80", podIP+":80") + // as portmap does for a hostPort
			dnat(clusterIP, "80", backendIP+":"+backendPort) + // as kube-proxy does
			dnat(secondClusterIP, "80", secondBackendIP+":"+backendPort)},
	} {
		if err := l.do(step[0], step[1]); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) link(host, address string) string {
	return fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s%s; ip link set %s up; ip addr add %s/24 dev %s; ", host, l.prefix, host, host, address, host)
}

func up(address, gateway string) string {
	return fmt.Sprintf("ip link set lo up; ip link set eth0 up; ip addr add %s/24 dev eth0; ip route add default via %s", address, gateway)
}

func dnat(address, port, target string) string {
	return fmt.Sprintf("iptables-nft -t nat -A PREROUTING -d %s -p tcp --dport %s -j DNAT --to-destination %s; ", address, port, target)
}

// do runs a shell command on a host.
func (l *lab) do(host, line string) error {
	return ip("netns", "exec", l.prefix+host, "sh", "-ec", line)
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (l *lab) close() {
	for _, c := range slices.Backward(l.closers) {
		c()
	}
	for _, host := range l.hosts {
		_ = ip("netns", "del", l.prefix+host)
	}
	if l.dir != "" {
		_ = os.RemoveAll(l.dir)
	}
}

// runningProxy is the real proxy, in the pod.
type runningProxy struct {
	lab    *lab
	cmd    *exec.Cmd
	config string
}

func (l *lab) startProxy(ctx context.Context) (*runningProxy, error) {
	p := &runningProxy{lab: l, config: filepath.Join(l.dir, "config.json")}
	binary := filepath.Join(l.dir, "hostport-nodeproxy")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "github.com/hostport-ccm/hostport-ccm/cmd/hostport-nodeproxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the proxy: %w: %s", err, out)
	}
	if err := p.write("0.0.0.0/0"); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(binary, "--config-file="+p.config)
	p.cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(l.dir, "lock"))
	if err := l.on("pod", p.cmd.Start); err != nil {
		return nil, err
	}
	return p, p.await(ctx, "/readyz", "ok")
}

// write replaces the config in one step.
func (p *runningProxy) write(source string) error {
	content := fmt.Sprintf(`{"service":"bench/web","ports":[{"port":80}],"clusterIPs":[%q],"sourceRanges":[%q]}`, clusterIP, source)
	if err := os.WriteFile(p.config+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(p.config+".new", p.config)
}

// await waits until the proxy's reply at a path contains a text.
func (p *runningProxy) await(ctx context.Context, path, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	address := "127.0.0.1:10271"
	if path == "/metrics" {
		address = "127.0.0.1:10270"
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
		err = p.lab.on("pod", func() error {
			conn, err = net.DialTimeout("tcp", address, time.Second)
			return err
		})
		return conn, err
	}}
	for {
		body, err := fetch(ctx, &http.Client{Transport: transport}, "http://pod"+path)
		if err == nil && strings.Contains(body, want) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the proxy's %s does not contain %q but is %q, %v", path, want, body, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the process; its rules stay.
func (p *runningProxy) stop() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
	}
}

// on calls f on a thread in the host's namespace. Sockets that f opens stay there.
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
