package kernel_test

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/kernel"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

const addr4, addr6 = "10.1.0.5", "fd00:1::5"

// inNamespace runs the test in a network namespace of its own, which has the
// interface pod0 with an address of each family, its peer, and no forwarding.
// The namespace ends with the thread.
func inNamespace[T testing.TB](t T, test func(t T)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("making a network namespace: %v", err)
			return
		}
		setUpInterfaces(t)
		test(t)
	}()
	<-done
}

func setUpInterfaces(t testing.TB) {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "peer0"}
	for _, err := range []error{
		netlink.LinkAdd(link),
		netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(addr4).To4(), Mask: net.CIDRMask(24, 32)}}),
		netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(addr6), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}),
		netlink.LinkSetUp(link),
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0),
	} {
		if err != nil {
			t.Errorf("setting up the namespace: %v", err)
		}
	}
}

func TestBothFlavoursInstallRepairAndVerifyRulesets(t *testing.T) {
	c := config.Config{
		Ports:        []config.Port{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}, {Protocol: "SCTP", Port: 99}},
		ClusterIPs:   []string{"10.96.0.7", "fd00:96::7"},
		SourceRanges: []string{"0.0.0.0/0", "192.0.2.0/24", "192.0.2.1/32", "::/0", "::/64", "::1/128", "::102:0/112", "::102:304/128", "::ffff:0:1/128", "2001:db8::/32", "2001:db8:0:1::1/128"},
	}
	limited := c
	limited.MaxConnectionsPerClient = 20
	// The chains of trees have to go with the next ruleset.
	trees := many(9, 9)
	trees.ClusterIPs = c.ClusterIPs
	for i := range 9 {
		trees.Ports = append(trees.Ports, config.Port{Protocol: "SCTP", Port: uint16(2000 + i)})
		trees.SourceRanges = append(trees.SourceRanges, fmt.Sprintf("2001:db8:%x::/48", 2*i))
	}
	for _, flavour := range []string{kernel.NFT, kernel.Legacy} {
		for _, family := range config.Families {
			t.Run(flavour+" "+string(family), func(t *testing.T) {
				inNamespace(t, func(t *testing.T) {
					checkRuleset(t, flavour, rules.Wanted(trees, family, ownAddresses(t)))
					checkRuleset(t, flavour, rules.Wanted(c, family, ownAddresses(t)))
					checkRuleset(t, flavour, rules.Wanted(limited, family, ownAddresses(t)))
					checkRuleset(t, flavour, rules.ShutdownMark(c, family, ownAddresses(t)))
					checkRuleset(t, flavour, rules.ShutdownReset(c, family, ownAddresses(t)))
				})
			})
		}
	}
}

func ownAddresses(t testing.TB) []netip.Addr {
	addrs, err := kernel.New().Addresses()
	want := []netip.Addr{netip.MustParseAddr(addr4), netip.MustParseAddr(addr6)}
	if err != nil || !slices.Equal(addrs, want) {
		t.Errorf("Addresses() = %v, %v, want %v", addrs, err, want)
	}
	return addrs
}

func checkRuleset(t *testing.T, flavour string, want rules.Ruleset) {
	iptables, err := (&kernel.Kernel{Flavours: []string{flavour}}).Iptables(t.Context(), want.Family)
	if err != nil {
		t.Error(err)
		return
	}
	if iptables.Flavour() != flavour {
		t.Errorf("flavour is %s, want %s", iptables.Flavour(), flavour)
	}
	read := func() rules.InstalledRules {
		text, err := iptables.Save(t.Context())
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(text, "HOSTPROBE") {
			t.Errorf("chains of the probe still exist:\n%s", text)
		}
		installed, err := rules.ParseSave(text)
		if err != nil {
			t.Error(err)
		}
		return installed
	}
	for _, damage := range []string{"", "*nat\n-F PREROUTING\nCOMMIT\n", "*filter\n-I FORWARD 1 -j ACCEPT\n-A FORWARD -j HOSTPORT-FORWARD\nCOMMIT\n"} {
		if damage != "" {
			if err := iptables.Restore(t.Context(), damage); err != nil {
				t.Error(err)
			}
		}
		if len(want.Differences(read())) == 0 {
			t.Errorf("after %q there are no differences", damage)
		}
		if err := iptables.Restore(t.Context(), want.Restore(read())); err != nil {
			t.Error(err)
		}
		if diff := want.Differences(read()); len(diff) > 0 {
			t.Errorf("after %q and a repair: %v", damage, diff)
			continue
		}
		if rewritten := want.Rewritten(read()); len(rewritten) > 0 {
			t.Errorf("iptables prints rules differently from how they were written, so confirming them takes processes: %+v", rewritten)
		}
		for _, chain := range want.Chains {
			for _, rule := range chain.Rules {
				if ok, err := iptables.Exists(chain.Table, chain.Name, strings.Fields(rule.Spec)...); !ok || err != nil {
					t.Errorf("rule %v of %s: exists %v, error %v", rule.Spec, chain.Name, ok, err)
				}
			}
		}
	}
}

func TestTheGenerationOfNFTChangesWithTheRulesAndOnlyThen(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for flavour, family := range map[string]config.Family{kernel.NFT: config.IPv4, kernel.Legacy: config.IPv6} {
			iptables, err := (&kernel.Kernel{Flavours: []string{flavour}}).Iptables(t.Context(), family)
			if err != nil {
				t.Error(err)
				return
			}
			generation := func() uint32 {
				n, known := iptables.Generation()
				if known != (flavour == kernel.NFT) {
					t.Errorf("flavour %s: a generation is known: %v", flavour, known)
				}
				return n
			}
			before := generation()
			if _, err := iptables.Save(t.Context()); err != nil {
				t.Error(err)
			}
			if generation() != before {
				t.Error("reading the rules changes the generation")
			}
			if err := iptables.Restore(t.Context(), "*filter\n-A OUTPUT -j ACCEPT\nCOMMIT\n"); err != nil {
				t.Error(err)
			}
			if flavour == kernel.NFT && generation() == before {
				t.Error("a new rule does not change the generation")
			}
		}
	})
}

func TestNFTIsPreferred(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		iptables, err := kernel.New().Iptables(t.Context(), config.IPv4)
		if err != nil || iptables.Flavour() != kernel.NFT {
			t.Errorf("Iptables() = %v, %v, want flavour nft", iptables, err)
		}
	})
}

func TestErrorWithoutAWorkingIptablesNamesWhatWasTriedAndWhatToDo(t *testing.T) {
	dir := t.TempDir()
	nft, err := exec.LookPath("iptables-nft")
	if err != nil {
		t.Fatalf("%v; install iptables", err)
	}
	// The restore of nft fails, and legacy is missing.
	if err := os.Symlink(nft, dir+"/iptables-nft"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/false", dir+"/iptables-nft-restore"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	_, err = kernel.New().Iptables(t.Context(), config.IPv4)
	for _, want := range []string{"nft: running iptables-nft-restore", "legacy: ", "iptables-legacy", "NET_ADMIN"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
}

func TestForwardingIsSwitchedOnOnce(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		k := kernel.New()
		for _, want := range [][]string{{"pod0"}, nil} {
			changed, err := k.Forward(config.IPv4)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(want, changed); diff != "" {
				t.Errorf("interfaces switched on (-want +got):\n%s", diff)
			}
		}
	})
}

func TestChangesOfTheNetworkAreNoticed(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		k := kernel.New()
		if !k.NetworkChanged() || k.NetworkChanged() {
			t.Error("only the first call must report a change")
		}
		for _, command := range []string{
			"ip address add 10.1.0.9/24 dev pod0", "ip address del fd00:1::5/64 dev pod0", "ip link set pod0 down",
			"echo 1 > /proc/sys/net/ipv4/conf/pod0/forwarding", "echo 1 > /proc/sys/net/ipv4/ip_forward", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
			"ip link del pod0",
		} {
			if out, err := exec.Command("sh", "-ec", command).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", command, err, out)
			}
			if !k.NetworkChanged() {
				t.Errorf("%s was not noticed", command)
			}
			if k.NetworkChanged() {
				t.Errorf("%s was noticed twice", command)
			}
		}
	})
}

func TestIPv6ForwardingThatIsOffIsAnErrorThatSaysWhatToDo(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		k := kernel.New()
		if _, err := k.Forward(config.IPv6); err == nil || !strings.Contains(err.Error(), "net.ipv6.conf.all.forwarding=1") {
			t.Errorf("error %v does not say what to do", err)
		}
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0); err != nil {
			t.Error(err)
		}
		if _, err := k.Forward(config.IPv6); err != nil {
			t.Errorf("with forwarding on: %v", err)
		}
	})
}

func TestFlushDeletesOnlyStaleFlows(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		k := kernel.New()
		own, target := net.ParseIP(addr4).To4(), net.ParseIP("10.96.0.6").To4()
		create := func(protocol uint8, port uint16, info netlink.ProtoInfo) {
			client := net.ParseIP("198.51.100.2").To4()
			if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
				FamilyType: unix.AF_INET, TimeOut: 100, ProtoInfo: info,
				Forward: netlink.IPTuple{SrcIP: client, DstIP: own, SrcPort: 4000, DstPort: port, Protocol: protocol},
				Reverse: netlink.IPTuple{SrcIP: target, DstIP: client, SrcPort: port, DstPort: 4000, Protocol: protocol},
			}); err != nil {
				t.Errorf("creating a flow: %v", err)
			}
		}
		visited := map[string]int{}
		const synSent, established = 1, 3
		create(unix.IPPROTO_UDP, 53, nil)
		create(unix.IPPROTO_TCP, 80, &netlink.ProtoInfoTCP{State: synSent})
		create(unix.IPPROTO_TCP, 81, &netlink.ProtoInfoTCP{State: established})
		create(unix.IPPROTO_SCTP, 99, nil)
		if n, err := k.FlowCount(); n != 4 || err != nil {
			t.Errorf("FlowCount() = %d, %v, want 4", n, err)
		}
		if err := k.Flows(config.IPv4, func(f rules.Flow) { visited[fmt.Sprint(f.Protocol, f.OrigDstPort)]++ }); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(map[string]int{"UDP53": 1, "TCP80": 1, "TCP81": 1, "SCTP99": 1}, visited); diff != "" {
			t.Errorf("flows visited (-want +got):\n%s", diff)
		}
		flow := rules.Flow{OrigDst: netip.MustParseAddr(addr4), ReplySrc: netip.MustParseAddr("10.96.0.6")}
		for _, tc := range []struct {
			protocol    string
			port        uint16
			established bool
			deleted     int
		}{
			{"UDP", 54, false, 0}, {"UDP", 53, false, 1}, {"UDP", 53, false, 0},
			{"TCP", 80, true, 0}, {"TCP", 80, false, 1}, {"TCP", 81, false, 0},
		} {
			want := flow
			want.Protocol, want.OrigDstPort, want.Established = tc.protocol, tc.port, tc.established
			n, err := k.Flush(config.IPv4, func(f rules.Flow) bool { return f == want })
			if n != tc.deleted || err != nil {
				t.Errorf("Flush(%+v) = %d, %v, want %d", tc, n, err, tc.deleted)
			}
		}
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		if err != nil || len(flows) != 2 || flows[0].Forward.DstPort+flows[1].Forward.DstPort != 81 {
			t.Errorf("flows after it are %v, %v, want the established connection and the SCTP association", flows, err)
		}
	})
}

func TestFlushDeletesStaleIPv6Flows(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		client, own, target := net.ParseIP("2001:db8::2"), net.ParseIP("fd00:1::5"), net.ParseIP("fd00:96::6")
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET6, &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET6, TimeOut: 100,
			Forward: netlink.IPTuple{SrcIP: client, DstIP: own, SrcPort: 4000, DstPort: 53, Protocol: unix.IPPROTO_UDP},
			Reverse: netlink.IPTuple{SrcIP: target, DstIP: client, SrcPort: 53, DstPort: 4000, Protocol: unix.IPPROTO_UDP},
		}); err != nil {
			t.Errorf("creating a flow: %v", err)
		}
		want := rules.Flow{Protocol: "UDP", OrigDst: netip.MustParseAddr("fd00:1::5"), OrigDstPort: 53, ReplySrc: netip.MustParseAddr("fd00:96::6")}
		if n, err := kernel.New().Flush(config.IPv6, func(f rules.Flow) bool { return f == want }); n != 1 || err != nil {
			t.Errorf("Flush = %d, %v, want 1", n, err)
		}
	})
}

// tcpTimeouts returns the TCP timeouts of connection tracking in this thread's network namespace.
func tcpTimeouts(t *testing.T) map[string]string {
	const prefix = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_"
	files, err := filepath.Glob(prefix + "*")
	if err != nil || len(files) == 0 {
		t.Errorf("no timeouts: %v", err)
	}
	timeouts := map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		timeouts[strings.TrimPrefix(file, prefix)] = strings.TrimSpace(string(data))
	}
	return timeouts
}

func TestSetTCPTimeoutsChangesOnlyThoseGivenAndOnlyInTheNamespace(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		want := tcpTimeouts(t)
		if err := kernel.New().SetTCPTimeouts(rules.TCPTimeouts{
			SynSent: 11 * time.Second, SynRecv: 12 * time.Second, Established: 13 * time.Hour, FinWait: 14 * time.Second, TimeWait: 15 * time.Second,
		}); err != nil {
			t.Error(err)
		}
		maps.Copy(want, map[string]string{"syn_sent": "11", "syn_recv": "12", "established": "46800", "fin_wait": "14", "time_wait": "15"})
		if diff := cmp.Diff(want, tcpTimeouts(t)); diff != "" {
			t.Errorf("timeouts (-want +got):\n%s", diff)
		}
	})
	inNamespace(t, func(t *testing.T) {
		if got := tcpTimeouts(t)["syn_sent"]; got == "11" {
			t.Error("another namespace has the timeouts too")
		}
	})
}
