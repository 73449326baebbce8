package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRulesOfAService(t *testing.T) {
	common := lines{
		"-N KUBE-SVC-0", "-N KUBE-SEP-0", "-N KUBE-SVL-0", "-N KUBE-EXT-0",
		"-A KUBE-SERVICES -d 10.96.0.7 -p tcp -m tcp --dport 2000 -j KUBE-SVC-0",
		"-A KUBE-NODEPORTS -p tcp -m tcp --dport 30000 -j KUBE-EXT-0",
		"-A KUBE-SVC-0 ! -s 10.0.0.0/14 -d 10.96.0.7 -p tcp -m tcp --dport 2000 -j KUBE-MARK-MASQ",
		"-A KUBE-SVC-0 -j KUBE-SEP-0",
		"-A KUBE-SEP-0 -s 10.2.0.5 -j KUBE-MARK-MASQ",
		"-A KUBE-SEP-0 -p tcp -m tcp -j DNAT --to-destination 10.2.0.5:8080",
	}
	address := "-A KUBE-SERVICES -d 198.51.100.1 -p tcp -m tcp --dport 2000 -j KUBE-EXT-0"
	for _, tc := range []struct {
		name    string
		service service
		more    lines
	}{
		{"policy Cluster masquerades", service{}, lines{"-A KUBE-EXT-0 -j KUBE-MARK-MASQ", "-A KUBE-EXT-0 -j KUBE-SVC-0"}},
		{"an address in the status has a rule", service{loadBalancer: true}, lines{address, "-A KUBE-EXT-0 -j KUBE-MARK-MASQ", "-A KUBE-EXT-0 -j KUBE-SVC-0"}},
		{"policy Local masquerades only what comes from the node", service{loadBalancer: true, local: true}, lines{
			address,
			"-A KUBE-EXT-0 -s 10.0.0.0/14 -j KUBE-SVC-0",
			"-A KUBE-EXT-0 -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
			"-A KUBE-EXT-0 -m addrtype --src-type LOCAL -j KUBE-SVC-0",
			"-A KUBE-EXT-0 -j KUBE-SVL-0",
			"-A KUBE-SVL-0 -j KUBE-SEP-0",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(append(common[:len(common):len(common)], tc.more...), tc.service.rules(0)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPortmapMatchesAtMost15PortsPerRule(t *testing.T) {
	for _, tc := range []struct{ ports, rules int }{{1, 1}, {15, 1}, {16, 2}, {100, 7}} {
		rules := portmapRules(tc.ports, func(int) string { return "10.1.0.5:80" })
		if got := strings.Count(strings.Join(rules, "\n"), "-m multiport"); got != tc.rules {
			t.Errorf("%d ports: %d rules, want %d", tc.ports, got, tc.rules)
		}
		if got := strings.Count(strings.Join(rules, "\n"), "-j DNAT"); got != tc.ports {
			t.Errorf("%d ports: %d translations", tc.ports, got)
		}
	}
}

func TestEveryRouteHasItsPort(t *testing.T) {
	for _, r := range routes {
		rules := r.nodeRules(3)
		_, port, _ := strings.Cut(r.path(3).address, ":")
		if !strings.Contains(rules, "--dport "+port+" ") {
			t.Errorf("%s: no rule for port %s in\n%s", r.name, port, rules)
		}
		if got := strings.Contains(rules, "CNI-HOSTPORT"); got != r.hostPort {
			t.Errorf("%s: rules of portmap: %t, want %t", r.name, got, r.hostPort)
		}
	}
}
