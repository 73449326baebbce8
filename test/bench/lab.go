package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netns"
)

// The lab's addresses. A client reaches the backend through the node: routed, by a port of the node
// that is translated to the backend, or by one that is translated to a pod, whose rules translate it
// to the cluster IP.
const (
	nodeIP    = "198.51.100.1"
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

// The paths to the backend without a pod.
var (
	routed = netPath{"routed, no NAT", backendIP + ":" + backendPort}
	direct = netPath{"direct: NAT on the node", nodeIP + ":81"}
)

// netPath is a path to the backend and the address that the client dials.
type netPath struct{ name, address string }

// pod is a pod that forwards the last of a number of ports for the client's source range, the last of
// a number of ranges, to the cluster IP.
type pod struct {
	name, host    string
	number        int
	ports, ranges int
	forwarder     forwarder
}

// forwarder is what forwards in a pod.
type forwarder int

const (
	noForwarder  forwarder = iota
	realProxy              // hostport-nodeproxy
	klipperRules           // rules like those of klipper-lb
	haproxy                // Debian's HAProxy, which copies between connections
	nginx                  // Debian's nginx with its stream module, which copies too
)

var pods = func() (all []pod) {
	add := func(name string, ports, ranges int, f forwarder) {
		all = append(all, pod{name, fmt.Sprintf("pod%d", len(all)), len(all), ports, ranges, f})
	}
	add("proxy, 1 port", 1, 1, realProxy)
	add("proxy, 10 ports", 10, 1, realProxy)
	add("proxy, 100 ports", 100, 1, realProxy)
	add("proxy, 1,000 ports", 1000, 1, realProxy)
	add("proxy, 500 source ranges", 1, 500, realProxy)
	add("proxy, 5,000 source ranges", 1, 5000, realProxy)
	add("like klipper-lb, 1 port", 1, 1, klipperRules)
	add("like klipper-lb, 10 ports", 10, 1, klipperRules)
	add("like klipper-lb, 100 ports", 100, 1, klipperRules)
	return all
}()

// onePort is the pod that the others are compared with, and whose ceilings are measured.
var onePort = pods[0]

func (p pod) ip() string      { return fmt.Sprintf("10.1.%d.5", p.number) }
func (p pod) gateway() string { return fmt.Sprintf("10.1.%d.1", p.number) }
func (p pod) lastPort() int   { return firstPort + p.ports - 1 }

// firstPort is the first port of each pod.
const firstPort = 2000

// path returns the path through the pod. Each pod has a port of the node, as with a hostPort.
func (p pod) path() netPath { return netPath{p.name, fmt.Sprintf("%s:%d", nodeIP, 100+p.number)} }

// lab is the hosts client, node and backend, and the pods, each in its own network namespace.
type lab struct {
	prefix string
	dir    string
	hosts  []string
	pods   []pod
	// forwarders are the processes that copy packets of clients, by their ids.
	forwarders []int
	// closers stop what runs in the lab.
	closers []func()
}

// newLab creates the hosts and the node's rules, which are input of iptables-restore. A process may
// have several labs, with different names. The lab must be closed even after an error.
func newLab(name string, pods []pod, nodeRules string) (*lab, error) {
	l := &lab{prefix: fmt.Sprintf(prefixOf, os.Getpid()) + name, pods: pods}
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
	hosts := []string{"client", "node", "backend"}
	for _, p := range pods {
		hosts = append(hosts, p.host)
	}
	for _, host := range hosts {
		if err := ip("netns", "add", l.prefix+host); err != nil {
			return l, err
		}
		l.hosts = append(l.hosts, host)
	}
	return l, l.configure(nodeRules)
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

func (l *lab) configure(nodeRules string) error {
	var addresses strings.Builder
	for i := range clients {
		fmt.Fprintf(&addresses, "addr add 198.51.100.%d/24 dev eth0\n", 2+i)
	}
	// Counted connections have no sockets: without this rule, the kernel would answer
	// their packets with resets.
	const noResets = "; iptables-nft -A OUTPUT -p tcp --tcp-flags RST RST -j DROP"
	steps := [][2]string{
		{"node", l.link("client", nodeIP) + l.link("backend", "10.2.0.1")},
		{"client", "ip link set lo up; ip link set eth0 up; ip -batch - <<'end'\n" + addresses.String() + "end\nip route add default via " + nodeIP},
		{"backend", up(backendIP, "10.2.0.1") + "; ip addr add " + secondBackendIP + "/24 dev eth0; echo 65535 > /proc/sys/net/core/somaxconn" + noResets},
	}
	for _, p := range l.pods {
		steps = append(steps, [2]string{"node", l.link(p.host, p.gateway())},
			[2]string{p.host, "echo 0 > /proc/sys/net/ipv4/ip_forward; " + up(p.ip(), p.gateway())})
		if p.forwarder == klipperRules {
			steps = append(steps, [2]string{p.host, "echo 1 > /proc/sys/net/ipv4/ip_forward; " + restore(peerRules(p))})
		}
	}
	steps = append(steps, [2]string{"node", "echo 1 > /proc/sys/net/ipv4/ip_forward; " + restore(nodeRules)})
	for _, step := range steps {
		if err := l.do(step[0], step[1]); err != nil {
			return err
		}
	}
	return nil
}

// leastNodeRules returns the node's rules, the least that do what kube-proxy does for a mirror Service
// and for cluster IPs, and portmap for hostPorts.
func leastNodeRules(pods []pod) string {
	rules := "*nat\n" + dnat(nodeIP, "--dport 81", backendIP+":"+backendPort) +
		dnat(clusterIP, "", backendIP+":"+backendPort) + dnat(secondClusterIP, "", secondBackendIP+":"+backendPort)
	for _, p := range pods {
		rules += dnat(nodeIP, fmt.Sprintf("--dport %d", 100+p.number), fmt.Sprintf("%s:%d", p.ip(), p.lastPort()))
	}
	return rules + "COMMIT\n"
}

// peerRules returns rules that translate and masquerade as klipper-lb's do: for each port a rule in
// PREROUTING, and one in POSTROUTING. Those by which klipper-lb checks source ranges are left out.
func peerRules(p pod) string {
	var b strings.Builder
	b.WriteString("*nat\n")
	for port := firstPort; port <= p.lastPort(); port++ {
		fmt.Fprintf(&b, "-A PREROUTING -p tcp -m tcp --dport %d -j DNAT --to-destination %s:%d\n-A POSTROUTING -d %s -p tcp -j MASQUERADE\n", port, clusterIP, port, clusterIP)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// restore returns a command that installs rules.
func restore(rules string) string { return "iptables-nft-restore <<'end'\n" + rules + "end\n" }

func (l *lab) link(host, address string) string {
	return fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s%s; ip link set %s up; ip addr add %s/24 dev %s; ", host, l.prefix, host, host, address, host)
}

func up(address, gateway string) string {
	return fmt.Sprintf("ip link set lo up; ip link set eth0 up; ip addr add %s/24 dev eth0; ip route add default via %s", address, gateway)
}

func dnat(address, port, target string) string {
	return fmt.Sprintf("-A PREROUTING -d %s -p tcp %s -j DNAT --to-destination %s\n", address, port, target)
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
