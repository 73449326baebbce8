package provider

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// hasPort reports whether any DaemonSet of a Service has a host port.
func (c *cluster) hasPort(name string, port int32) bool {
	for set := range plan.SetNames(service(name)) {
		ds := c.daemonSetOf(set, name)
		if ds != nil && slices.Contains(snapshot.HostPorts(ds.Spec.Template.Spec), snapshot.Port{Protocol: v1.ProtocolTCP, Number: port}) {
			return true
		}
	}
	return false
}

// allowsPort reports whether a Service's IPv4 rule allows a port.
func (c *cluster) allowsPort(name string, port uint16) bool {
	return slices.ContainsFunc(c.firewall.Rules()[ruleOf(name)].Allowed, func(a firewall.Allow) bool { return a.From <= port && port <= a.To })
}

func TestTheFirewallClosesAPortBeforeTheProxiesReleaseIt(t *testing.T) {
	for name, ports := range map[string][]int32{"removed": {80}, "replaced by another": {80, 8443}, "all replaced": {8080, 8443}} {
		t.Run(name, func(t *testing.T) {
			c := twoNodes(t)
			c.start()
			c.serve(service("web", tcp(80, 443)))
			unblock := make(chan struct{})
			c.firewall.FailWith(func(method string, _ firewall.Owner) error {
				if method == "Ensure" {
					<-unblock
				}
				return nil
			})
			c.edit("web", tcp(ports...))
			c.proxy("web", "n2", notReady)
			c.publishes("web", "203.0.113.1") // It is reconciled after the edit.
			if !c.hasPort("web", 443) || c.hasPort("web", 8443) {
				t.Errorf("the proxies changed before the firewall: %v", c.daemonSet("web").Spec.Template.Spec.Containers[0].Ports)
			}
			c.firewall.FailWith(func(method string, _ firewall.Owner) error {
				if method == "Ensure" && c.allowsPort("web", 443) && !c.hasPort("web", 443) {
					t.Error("the firewall allows a port that the proxies have released")
				}
				return nil
			})
			close(unblock)
			c.eventually("the proxies have the new ports only", func() bool {
				return !c.hasPort("web", 443) && !slices.ContainsFunc(ports, func(p int32) bool { return !c.hasPort("web", p) })
			})
			c.eventually("the firewall allows the new ports only", func() bool {
				return !c.allowsPort("web", 443) && !slices.ContainsFunc(ports, func(p int32) bool { return !c.allowsPort("web", uint16(p)) })
			})
		})
	}
}

func TestTheFirewallClosesAPortBeforeAMirrorLosesIt(t *testing.T) {
	c := twoTranslatedNodes(t)
	c.start()
	c.serveDirectly(service("web", tcp(80, 443), withDatapath(options.DatapathDirect)))
	unblock := make(chan struct{})
	c.firewall.FailWith(func(method string, _ firewall.Owner) error {
		if method == "Ensure" {
			<-unblock
		}
		return nil
	})
	c.edit("web", tcp(80, 8443))
	c.editNode("n2", func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionFalse })
	c.publishes("web", "203.0.113.1") // It is reconciled after the edit.
	if got := len(c.mirror("web").Spec.Ports); got != 2 || !slices.ContainsFunc(c.mirror("web").Spec.Ports, func(p v1.ServicePort) bool { return p.Port == 443 }) {
		t.Errorf("the mirror lost the port before the firewall closed it: %v", c.mirror("web").Spec.Ports)
	}
	close(unblock)
	c.eventually("the mirror has the new ports only", func() bool {
		return slices.Equal(snapshot.PortsOf(c.mirror("web")), []snapshot.Port{{Protocol: v1.ProtocolTCP, Number: 80}, {Protocol: v1.ProtocolTCP, Number: 8443}})
	})
}

func TestInReportModeProxiesReleaseAPortAtOnce(t *testing.T) {
	c := twoNodes(t)
	c.config.LoadBalancer.Firewall = firewall.Report
	c.start()
	c.serve(service("web", tcp(80, 443)))
	c.edit("web", tcp(80))
	c.eventually("the proxies have port 80 only", func() bool { return c.hasPort("web", 80) && !c.hasPort("web", 443) })
	if c.firewall.Writes() != 0 {
		t.Errorf("%d writes", c.firewall.Writes())
	}
}
