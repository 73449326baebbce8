package edge

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// Enforcer applies snapshots in its network namespace. It never removes its table: packets flow
// while the simulator restarts.
type Enforcer struct {
	config  Config
	applied []vm
}

// NewEnforcer enables forwarding in the namespace and disables ICMP redirects: with a redirect, a
// VM would send packets for an external address directly to another VM.
func NewEnforcer(config Config) (*Enforcer, error) {
	settings := map[string]string{"ipv4/ip_forward": "1", "ipv4/conf/all/send_redirects": "0"}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		settings["ipv6/conf/all/forwarding"] = "1"
	}
	for _, name := range []string{config.Internet, config.VPC} {
		settings["ipv4/conf/"+name+"/send_redirects"] = "0"
	}
	for path, value := range settings {
		if err := writeSysctl(path, value); err != nil {
			return nil, err
		}
	}
	return &Enforcer{config: config}, nil
}

// writeSysctl writes a setting unless it has the value already: /proc/sys may be read-only.
func writeSysctl(path, value string) error {
	file := "/proc/sys/net/" + path
	have, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting net/%s to %s: %w", path, value, err)
	}
	return nil
}

// Apply enforces a snapshot. It deletes connections over a removed mapping from connection
// tracking, so that their packets are filtered as new ones; other established connections stay, as
// on Compute Engine. Calls must not overlap.
func (e *Enforcer) Apply(snapshot gcesim.Snapshot) error {
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(Ruleset(snapshot, e.config))
	if output, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("loading the ruleset with nft: %w: %s", err, strings.TrimSpace(string(output)))
	}
	network := e.config.Network
	if network == "" {
		network = snapshot.Network
	}
	now := vmsOf(snapshot.Instances, network)
	for _, was := range e.applied {
		if slices.Contains(now, was) {
			continue
		}
		if err := forget(was); err != nil {
			return fmt.Errorf("forgetting connections over %s to %s: %w", was.external, was.internal, err)
		}
	}
	e.applied = now
	return nil
}

// forget deletes the connections over a mapping from connection tracking: those to the external
// address, and those from the internal one.
func forget(v vm) error {
	for _, end := range []struct {
		kind netlink.ConntrackFilterType
		addr string
	}{
		{netlink.ConntrackOrigDstIP, v.external},
		{netlink.ConntrackReplyDstIP, v.external},
	} {
		addr, err := netip.ParseAddr(end.addr)
		if err != nil {
			return err
		}
		filter := &netlink.ConntrackFilter{}
		if err := filter.AddIP(end.kind, addr.AsSlice()); err != nil {
			return err
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter); err != nil {
			return err
		}
	}
	return nil
}
