//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestANodeThatLosesTheRulesOfItsProxyLeavesAndIsRepaired(t *testing.T) {
	t.Parallel()
	svc, port := newWeb(t)
	before := proxyOn(t, svc, "node1")
	stop := watchFewest(t, svc, externalIPs("node1"))
	loseHostPorts(t, v1.IPv4Protocol, port, "node1")
	wantAddresses(t, svc, time.Minute, externalIPs("node1")...)
	wantEvent(t, svc, "AddressNotReachable", "node node1", fmt.Sprintf("port %d/TCP over IPv4 is refused", port), "withdrawn")
	wantEvent(t, svc, "ProxyReplaced", before.name, "node1")
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	stop(len(externalIPs("node1")))
	if now := proxyOn(t, svc, "node1"); now.uid == before.uid {
		t.Error("the proxy was not replaced")
	}
}

func TestAllNodesThatLoseTheirRulesAreRepairedOneByOne(t *testing.T) {
	t.Parallel()
	svc, port := newWeb(t)
	stop := watchFewest(t, svc, nil)
	loseHostPorts(t, v1.IPv4Protocol, port, "node1", "node2", "node3")
	for _, node := range []string{"node1", "node2", "node3"} {
		wantEvent(t, svc, "ProxyReplaced", node)
	}
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	stop(1)
	wantEvent(t, svc, "AddressNotReachable", "stay published")
}

func TestDualStackAddressesOfAFamilyWithoutHostPortsLeave(t *testing.T) {
	t.Parallel()
	svc, port := newDualStackWeb(t)
	before := proxies(t, svc)
	loseHostPorts(t, v1.IPv6Protocol, port, "node1", "node2", "node3")
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantEvent(t, svc, "AddressNotReachable", fmt.Sprintf("port %d/TCP over IPv6 is refused", port))
	wantAddressesStay(t, svc, 15*time.Second, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	wantUnchanged(t, svc, before)
}

func TestNodesThatServeStayWhateverTheProberSees(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(*v1.Service){
		"from other sources": onlyFrom(cluster.InternetIP),
		"UDP alone":          func(s *v1.Service) { s.Spec.Ports[0].Protocol = v1.ProtocolUDP },
		"without endpoints":  func(s *v1.Service) { s.Spec.Selector = map[string]string{"app": "none"} },
	}
	services, before := map[string]*v1.Service{}, map[string][]proxy{}
	for name, change := range kinds {
		ns := newNamespace(t)
		newBackend(t, ns, "web")
		services[name] = newService(t, ns, "web", change, servicePort(v1.ProtocolTCP, freePort()))
		wantAddresses(t, services[name], time.Minute, externalIPs()...)
		before[name] = proxies(t, services[name])
	}
	steady(t, 45*time.Second, "all nodes are published", func() error {
		for name, svc := range services {
			if got, err := addresses(t.Context(), svc); err == nil && !sameElements(got, externalIPs()) {
				return fmt.Errorf("Service %s has addresses %v", name, got)
			}
			if err := hasWarning(t.Context(), svc, "AddressNotReachable"); err == nil {
				return fmt.Errorf("Service %s has a warning", name)
			}
		}
		return nil
	})
	for name, svc := range services {
		wantUnchanged(t, svc, before[name])
	}
}

func TestAPortWithTrafficIsNotProbed(t *testing.T) {
	t.Parallel()
	svc, port := newWeb(t)
	p := proxyOn(t, svc, "node1")
	counter := fmt.Sprintf("hostport_nodeproxy_port_connections_total{family=\"IPv4\",protocol=\"TCP\",port=\"%d\"}", port)
	sent := 0
	send := func(n int) {
		for range n {
			if _, err := getTCP(t.Context(), externalIPs()[0], port); err != nil {
				t.Fatal(err)
			}
			sent++
			time.Sleep(2 * time.Second)
		}
	}
	idle := p.metric(t, counter)
	time.Sleep(20 * time.Second)
	if p.metric(t, counter) == idle {
		t.Error("the port is not probed without traffic")
	}
	send(5) // A probe may be under way.
	from, sentFrom := p.metric(t, counter), sent
	send(20)
	// What the proxy answers can be a second old, so a connection may be counted late at either end.
	if got, own := p.metric(t, counter)-from, sent-sentFrom; got > own+2 {
		t.Errorf("%d connections, of which clients made %d", got, own)
	}
}

func TestDualStackAProxyThatIsNotReadySaysWhyInAnEvent(t *testing.T) {
	t.Parallel()
	svc, _ := newDualStackWeb(t)
	p := proxyOn(t, svc, "node2")
	if out, err := p.inNamespace(t.Context(), "ip", "-6", "address", "flush", "scope", "global"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wantEvent(t, svc, "ProxyNotReady", p.name, "node2", "this pod has no IPv6 address")
	deletePod(t, p)
	wantAddresses(t, svc, time.Minute, slices.Concat(externalIPs(), externalIPv6s())...)
}

// newDualStackWeb creates a Service with one TCP port and waits until all nodes serve it in both IP
// families.
func newDualStackWeb(t *testing.T) (svc *v1.Service, port int) {
	t.Helper()
	needDualStack(t)
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc = newService(t, ns, "web", inFamilies(v1.IPv4Protocol, v1.IPv6Protocol), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, slices.Concat(externalIPs(), externalIPv6s())...)
	return svc, port
}

// loseHostPorts removes the rules that the network plugin made on nodes for the proxies that have a
// port there.
func loseHostPorts(t *testing.T, family v1.IPFamily, port int, nodes ...string) {
	t.Helper()
	lose := loseHostPortsOfIPTables
	if sandbox.KubeProxyMode() == cluster.NFTables {
		lose = loseHostPortsOfNFTables
	}
	for _, node := range nodes {
		if removed := lose(t, family, port, node); removed == 0 {
			t.Fatalf("%s has no rule for port %d", node, port)
		}
	}
}

func loseHostPortsOfIPTables(t *testing.T, family v1.IPFamily, port int, node string) (removed int) {
	t.Helper()
	program := map[v1.IPFamily]string{v1.IPv4Protocol: "iptables", v1.IPv6Protocol: "ip6tables"}[family]
	rules, err := sandbox.Exec(t.Context(), node, program, "-t", "nat", "-S", "CNI-HOSTPORT-DNAT")
	if err != nil {
		t.Fatal(err)
	}
	for rule := range strings.Lines(rules) {
		if !strings.Contains(rule, fmt.Sprintf("--dports %d ", port)) {
			continue
		}
		// The rule has quotes for a shell.
		if out, err := sandbox.Exec(t.Context(), node, "sh", "-c", program+" -t nat "+strings.Replace(rule, "-A", "-D", 1)); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		removed++
	}
	return removed
}

func loseHostPortsOfNFTables(t *testing.T, family v1.IPFamily, port int, node string) (removed int) {
	t.Helper()
	chain := map[v1.IPFamily]string{v1.IPv4Protocol: "ip", v1.IPv6Protocol: "ip6"}[family] + " cni_hostport hostports"
	rules, err := sandbox.Exec(t.Context(), node, "nft", "--handle", "list chain "+chain)
	if err != nil {
		t.Fatal(err)
	}
	for rule := range strings.Lines(rules) {
		_, handle, found := strings.Cut(strings.TrimSpace(rule), "# handle ")
		if !found || !strings.Contains(rule, fmt.Sprintf(" dport %d ", port)) {
			continue
		}
		if out, err := sandbox.Exec(t.Context(), node, "nft", "delete rule "+chain+" handle "+handle); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		removed++
	}
	return removed
}

// watchFewest watches the addresses of a Service. The returned function ends that, and fails the test
// if one of always was not published at some time, or fewer than a number were.
func watchFewest(t *testing.T, svc *v1.Service, always []string) (stop func(fewest int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var missing error
	fewest, ended := len(externalIPs()), make(chan struct{})
	t.Cleanup(cancel)
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			got, err := addresses(ctx, svc)
			if err != nil {
				continue
			}
			fewest = min(fewest, len(got))
			for _, address := range always {
				if !slices.Contains(got, address) {
					missing = errors.Join(missing, fmt.Errorf("%s: published are %v", time.Now().Format(time.TimeOnly), got))
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return func(want int) {
		t.Helper()
		cancel()
		<-ended
		if missing != nil || fewest < want {
			t.Errorf("at some time %d addresses were published, want at least %d (%v)", fewest, want, missing)
		}
	}
}
