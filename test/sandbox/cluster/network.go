package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// machineLink is the machine's end of its link to the gateway.
const machineLink = "hp-machine"

// Bridges on the gateway: the VPC with the nodes, the internet, and the machine's access.
const (
	vpcBridge     = "vpc0"
	inetBridge    = "inet0"
	machineBridge = "machine0"
)

// Kernel settings of a host that forwards, and of one whose bridges do not pass packets to
// iptables.
var (
	forwarding        = both{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"}
	unfilteredBridges = both{"net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0"}
)

// unfiltered makes a bridge pass all multicast packets to all hosts. All nodes are in the same multicast
// group of neighbour discovery, as their IPv6 addresses end alike. With snooping and without a querier,
// the bridge would forget those that joined minutes ago when another joins, as at its boot, and the
// others could not be resolved any more.
const unfiltered = " type bridge mcast_snooping 0"

// makeNetwork creates the gateway, its bridges and the machine's link to it.
func (c *Cluster) makeNetwork(ctx context.Context) error {
	if err := c.addNamespace(ctx, Gateway); err != nil {
		return err
	}
	lines := []string{
		"link add " + vpcBridge + " address " + macOf(vpcGateways.v4) + unfiltered,
		"addr add " + metadataIP + "/32 dev " + vpcBridge,
		"link set " + vpcBridge + " up",
		"link add " + inetBridge + " address " + macOf(inetGateways.v4) + unfiltered,
		"link set " + inetBridge + " up",
	}
	lines = append(lines, c.onLink(vpcGateways, vpcBridge)...)
	lines = append(lines, c.onLink(inetGateways, inetBridge)...)
	for _, n := range Nodes(c.shape.Profile) {
		vias := c.shape.of(n.addresses())
		for i, pods := range c.shape.of(n.podCIDR) {
			lines = append(lines, "route add "+pods+" via "+vias[i])
		}
	}
	if err := c.ip(ctx, Gateway, lines...); err != nil {
		return err
	}
	for _, setting := range append(c.shape.of(forwarding), c.shape.of(unfilteredBridges)...) {
		if err := c.sysctl(ctx, Gateway, setting); err != nil {
			return err
		}
	}
	return c.linkMachine(ctx)
}

// linkMachine connects the machine to the gateway, with the simulator. Hosts with addMachineLink are
// connected too.
func (c *Cluster) linkMachine(ctx context.Context) error {
	if _, err := c.run(ctx, nil, "ip", "link", "add", machineLink, "type", "veth", "peer", "name", "machine", "netns", netns(Gateway)); err != nil {
		return err
	}
	if _, err := c.run(ctx, nil, "ip", "addr", "add", machineIP+"/29", "dev", machineLink); err != nil {
		return err
	}
	if _, err := c.run(ctx, nil, "ip", "link", "set", machineLink, "up"); err != nil {
		return err
	}
	return c.ip(ctx, Gateway,
		"link add "+machineBridge+" type bridge",
		"addr add "+machineGateway+"/29 dev "+machineBridge,
		"link set "+machineBridge+" up",
		"link set machine master "+machineBridge,
		"link set machine up")
}

// addControl creates the control host, with a second address for the machine.
func (c *Cluster) addControl(ctx context.Context) error {
	if err := c.addHost(ctx, Control, vpcBridge, both{controlIP, controlIPv6}, vpcGateways); err != nil {
		return err
	}
	return c.addMachineLink(ctx, Control, machineControl)
}

// addMachineLink gives a host an address in the machine's network.
func (c *Cluster) addMachineLink(ctx context.Context, host, address string) error {
	if err := c.ip(ctx, Gateway,
		fmt.Sprintf("link add %s1 type veth peer name eth1 netns %s", host, netns(host)),
		fmt.Sprintf("link set %s1 master %s", host, machineBridge),
		fmt.Sprintf("link set %s1 up", host)); err != nil {
		return err
	}
	return c.ip(ctx, host, "addr add "+address+"/29 dev eth1", "link set eth1 up")
}

// addHost creates a host's network namespace and connects it to a bridge.
func (c *Cluster) addHost(ctx context.Context, host, bridge string, addresses, gateways both) error {
	if err := c.addNamespace(ctx, host); err != nil {
		return err
	}
	if err := c.ip(ctx, Gateway,
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %s", host, macOf(addresses.v4), netns(host)),
		fmt.Sprintf("link set %s master %s", host, bridge),
		fmt.Sprintf("link set %s up", host)); err != nil {
		return err
	}
	lines := append(c.onLink(addresses, "eth0"), "link set eth0 up")
	for _, gateway := range c.shape.of(gateways) {
		lines = append(lines, "route add default via "+gateway)
	}
	return c.ip(ctx, host, lines...)
}

// macOf returns the MAC address that a VM on GCE has for its IPv4 address. It is the same after each boot, so
// that neighbours find the host at once. A bridge without an address of its own has the lowest of its
// ports' and changes it when a node is powered off; over IPv6, other nodes notice after half a minute.
func macOf(ipv4 string) string {
	b := netip.MustParseAddr(ipv4).As4()
	return fmt.Sprintf("42:01:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// onLink returns ip commands that add addresses with their network to an interface.
func (c *Cluster) onLink(addresses both, device string) []string {
	var lines []string
	for i, address := range c.shape.of(addresses) {
		prefix := []string{"/24", "/64"}[i]
		lines = append(lines, "addr add "+address+prefix+" dev "+device)
	}
	return lines
}

var masquerade = both{
	fmt.Sprintf(masqueradeFormat, "ip", podRange.v4, "10.0.0.0/8"),
	fmt.Sprintf(masqueradeFormat, "ip6", podRange.v6, "{ fc00::/7, "+vpcIPv6+" }"),
}

const masqueradeFormat = `table %[1]s vm_masquerade {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		%[1]s saddr %[2]s %[1]s daddr != %[3]s masquerade
	}
}`

// addNode creates a node's namespace like a node on GCE: it forwards, and packets of its pods to
// addresses outside of the private networks get the node's address as source.
func (c *Cluster) addNode(ctx context.Context, n Node) error {
	if err := c.addHost(ctx, n.Name, vpcBridge, n.addresses(), vpcGateways); err != nil {
		return err
	}
	for _, setting := range c.shape.of(forwarding) {
		if err := c.sysctl(ctx, n.Name, setting); err != nil {
			return err
		}
	}
	rules := strings.Join(c.shape.of(masquerade), "\n")
	_, err := c.run(ctx, strings.NewReader(rules), "nsenter", "--net="+netnsPath(n.Name), "nft", "-f", "-")
	return err
}

func (c *Cluster) addNamespace(ctx context.Context, host string) error {
	if _, err := c.run(ctx, nil, "ip", "netns", "add", netns(host)); err != nil {
		return err
	}
	if c.shape.IPFamily == DualStack {
		// The addresses are unique, and detecting duplicates takes a second each.
		if err := c.sysctl(ctx, host, "net.ipv6.conf.default.accept_dad=0"); err != nil {
			return err
		}
	}
	return c.ip(ctx, host, "link set lo up")
}

// ip runs lines of ip commands in a host's namespace.
func (c *Cluster) ip(ctx context.Context, host string, lines ...string) error {
	in := strings.NewReader(strings.Join(lines, "\n") + "\n")
	_, err := c.run(ctx, in, "ip", "-netns", netns(host), "-batch", "-")
	return err
}

func (c *Cluster) sysctl(ctx context.Context, host, setting string) error {
	name, value, _ := strings.Cut(setting, "=")
	file := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	_, err := c.run(ctx, strings.NewReader(value), "nsenter", "--net="+netnsPath(host), "tee", file)
	return err
}

// deleteHostNetwork removes a host's namespace with all its links.
func (c *Cluster) deleteHostNetwork(ctx context.Context, host string) error {
	if _, err := os.Stat(netnsPath(host)); err != nil {
		return nil
	}
	if _, err := os.Stat(netnsPath(Gateway)); err == nil && host != Gateway {
		// The namespace may exist for a moment longer, its peer must not.
		_ = c.ip(ctx, Gateway, "link del "+host)
	}
	_, err := c.run(ctx, nil, "ip", "netns", "del", netns(host))
	return err
}

func (c *Cluster) deleteMachineLink(ctx context.Context) error {
	if _, err := os.Stat("/sys/class/net/" + machineLink); err != nil {
		return nil
	}
	_, err := c.run(ctx, nil, "ip", "link", "del", machineLink)
	return err
}
