package nodeproxy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// manyPorts returns a config with n ports and n source ranges of each IP family.
func manyPorts(n int) config.Config {
	c := web
	c.ClusterIPs, c.Ports, c.SourceRanges = []string{"10.96.0.7", "fd00:96::7"}, nil, nil
	for i := range n {
		c.Ports = append(c.Ports, config.Port{Protocol: "UDP", Port: uint16(1000 + i)})
		c.SourceRanges = append(c.SourceRanges, fmt.Sprintf("10.%d.%d.0/25", i/256, i%256), fmt.Sprintf("2001:db8:%x::/48", 2*i))
	}
	return c
}

// replace returns a function that replaces the first part of a rule that matches.
func replace(old, new string) func(string) string {
	return func(spec string) string { return strings.Replace(spec, old, new, 1) }
}

func TestTheNumberOfProcessesDoesNotDependOnTheNumberOfRules(t *testing.T) {
	for name, reword := range map[string]func(string) string{
		"iptables prints rules as they are written": replace("", ""),
		"iptables prints rules in another form":     replace("-m conntrack", "-m conntrack --verbose"),
	} {
		t.Run(name, func(t *testing.T) {
			processes := func(n int) int {
				p := newTestProxy(t, manyPorts(n))
				p.kernel.Forwards[config.IPv6] = true
				fake := p.kernel.Tables[config.IPv4]
				fake.Reword(reword)
				p.Sync(t.Context())
				p.wantReady(t)
				installing := fake.Processes()
				p.Sync(t.Context())
				if got := fake.Processes() - installing; got != 0 {
					t.Errorf("with %d ports, a sync after which nothing has changed starts %d processes, want none", n, got)
				}
				return installing
			}
			if few, many := processes(2), processes(200); few != many {
				t.Errorf("%d processes for 2 ports, %d for 200", few, many)
			}
		})
	}
}

func TestARuleThatIptablesAlteredIsNoticed(t *testing.T) {
	dnat80 := "--ctorigdstport 80 -j DNAT --to-destination 10.96.0.7"
	for name, tc := range map[string]struct {
		alter, reword func(string) string
		want          string
	}{
		"a rule is altered":                           {replace("-s 192.0.2.0/24", "-s 192.0.2.0/23"), replace("", ""), "does not have it, but \"-s 192.0.2.0/23 -j ACCEPT\""},
		"one rule of many alike is altered":           {replace(dnat80, dnat80+":8080"), replace("", ""), "--to-destination 10.96.0.7:8080"},
		"it is one of many in another form":           {replace("--ctorigdstport 53 -j", "--ctorigdstport 54 -j"), replace("-j DNAT", "--jump DNAT"), "--ctorigdstport 54 --jump DNAT"},
		"a match is left out of one rule of its kind": {replace("--ctorigdstport 80 -j", "-j"), replace("-j DNAT", "--jump DNAT"), "--ctorigdst 10.1.0.5 --jump DNAT"},
	} {
		t.Run(name, func(t *testing.T) {
			c := web
			c.SourceRanges = []string{"198.51.100.0/24", "192.0.2.0/24"}
			p := newTestProxy(t, c)
			fake := p.kernel.Tables[config.IPv4]
			fake.Alter(tc.alter)
			fake.Reword(tc.reword)
			p.Sync(t.Context())
			p.wantNotReady(t, tc.want)
			fake.Alter(replace("", ""))
			p.Sync(t.Context())
			p.wantReady(t)
		})
	}
}

func TestTooManyFormsAreAnErrorThatSaysWhatToDo(t *testing.T) {
	p := newTestProxy(t, manyPorts(60))
	fake, n := p.kernel.Tables[config.IPv4], 0
	fake.Reword(func(spec string) string {
		n++
		return strings.Replace(spec, "-m conntrack", fmt.Sprint("-m conntrack", n), 1)
	})
	p.Sync(t.Context())
	p.wantNotReady(t, "use the iptables of the released image")
}
