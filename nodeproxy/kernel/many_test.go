package kernel_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/kernel"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// many returns a config with many UDP ports and IPv4 source ranges.
func many(ports, ranges int) config.Config {
	c := config.Config{ClusterIPs: []string{"10.96.0.7"}}
	for i := range ports {
		c.Ports = append(c.Ports, config.Port{Protocol: "UDP", Port: uint16(2000 + i)})
	}
	for i := range ranges {
		c.SourceRanges = append(c.SourceRanges, fmt.Sprintf("10.%d.%d.0/25", i/256, i%256))
	}
	return c
}

// installed returns how iptables prints rules that it has just installed.
func installed(t testing.TB, iptables nodeproxy.Iptables, want rules.Ruleset) rules.InstalledRules {
	if err := iptables.Restore(t.Context(), want.Restore(nil)); err != nil {
		t.Error(err)
	}
	text, err := iptables.Save(t.Context())
	if err != nil {
		t.Error(err)
	}
	got, err := rules.ParseSave(text)
	if err != nil {
		t.Error(err)
	}
	return got
}

func TestBothFlavoursPrintThousandsOfRulesAsTheyAreWritten(t *testing.T) {
	for _, flavour := range []string{kernel.NFT, kernel.Legacy} {
		t.Run(flavour, func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				iptables, err := (&kernel.Kernel{Flavours: []string{flavour}}).Iptables(t.Context(), config.IPv4)
				if err != nil {
					t.Error(err)
					return
				}
				want := rules.Wanted(many(1000, 5000), config.IPv4, ownAddresses(t))
				got := installed(t, iptables, want)
				if diff := want.Differences(got); len(diff) > 0 {
					t.Errorf("right after installation, %v", diff)
				} else if rewritten := want.Rewritten(got); len(rewritten) > 0 {
					t.Errorf("%d kinds of rules are printed differently, such as %+v", len(rewritten), rewritten[0])
				}
			})
		})
	}
}

func TestAlteredRulesAreNoticed(t *testing.T) {
	for _, flavour := range []string{kernel.NFT, kernel.Legacy} {
		t.Run(flavour, func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				iptables, err := (&kernel.Kernel{Flavours: []string{flavour}}).Iptables(t.Context(), config.IPv4)
				if err != nil {
					t.Error(err)
					return
				}
				c := many(2, 2)
				addrs := []netip.Addr{netip.MustParseAddr(addr4)}
				want := rules.Wanted(c, config.IPv4, addrs)
				c.Ports[1].Port++
				got := installed(t, iptables, rules.Wanted(c, config.IPv4, addrs))
				rewritten := want.Rewritten(got)
				if len(rewritten) != 3 { // forward, both directions, and DNAT
					t.Errorf("noticed %+v, want all three rules of the port", rewritten)
				}
				for _, r := range rewritten {
					if ok, err := iptables.Exists(r.Table, r.Chain, strings.Fields(r.Written)...); ok || err != nil {
						t.Errorf("rule %q: exists %v, error %v", r.Written, ok, err)
					}
				}
			})
		})
	}
}

// BenchmarkInstall measures the installation of rules, and their confirmation by the text that
// iptables prints or by a process per rule.
func BenchmarkInstall(b *testing.B) {
	for name, c := range map[string]config.Config{"100 ports": many(100, 1), "1000 ports": many(1000, 1), "5000 ranges": many(1, 5000)} {
		for _, flavour := range []string{kernel.NFT, kernel.Legacy} {
			run := func(name string, confirm func(iptables nodeproxy.Iptables, want rules.Ruleset, got rules.InstalledRules)) {
				b.Run(name, func(b *testing.B) {
					inNamespace(b, func(b *testing.B) {
						iptables, err := (&kernel.Kernel{Flavours: []string{flavour}}).Iptables(b.Context(), config.IPv4)
						if err != nil {
							b.Error(err)
							return
						}
						want := rules.Wanted(c, config.IPv4, ownAddresses(b))
						for b.Loop() {
							confirm(iptables, want, installed(b, iptables, want))
						}
					})
				})
			}
			run(name+", "+flavour+", by text", func(_ nodeproxy.Iptables, want rules.Ruleset, got rules.InstalledRules) {
				if rewritten := want.Rewritten(got); len(rewritten) > 0 {
					b.Errorf("printed differently: %+v", rewritten)
				}
			})
			run(name+", "+flavour+", by processes", func(iptables nodeproxy.Iptables, want rules.Ruleset, _ rules.InstalledRules) {
				for _, chain := range want.Chains {
					for _, rule := range chain.Rules {
						if ok, err := iptables.Exists(chain.Table, chain.Name, strings.Fields(rule.Spec)...); !ok || err != nil {
							b.Errorf("rule %v: exists %v, error %v", rule.Spec, ok, err)
						}
					}
				}
			})
		}
	}
}
