package provider

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestADeadNodeIsRemovedBeforeItIsNotReady(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	daemonSet, writes := c.daemonSet("web"), c.firewall.Writes()
	c.nodes.SetDown("n2")
	c.publishes("web", "203.0.113.1")
	c.eventually("an event reports the failure", func() bool { return c.hasEvent("Warning LoadBalancerNodeDown n2: node n2 has not answered") })
	c.nodes.SetDown("n1", "n2")
	c.eventually("the Service is reconciled", c.nodes.Overlaid)
	c.nodes.Renotify()
	c.eventually("the Service is reconciled again", c.nodes.Overlaid)
	c.publishes("web", "203.0.113.1") // All nodes are down, so the last address stays.
	c.nodes.SetDown("n1")
	c.publishes("web", "203.0.113.2")
	c.nodes.SetDown()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.eventually("an event reports the recovery", func() bool { return c.hasEvent("Normal LoadBalancerNodeUp n1: node n1 has renewed its Lease") })
	if diff := cmp.Diff(daemonSet, c.daemonSet("web")); diff != "" || c.firewall.Writes() != writes {
		t.Errorf("the firewall was written %d times, the DaemonSet changed (-before +after):\n%s", c.firewall.Writes()-writes, diff)
	}
}

func TestANewLeaderDetectsDeadNodes(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web"))
	stop()
	c.nodes.SetDown("n2")
	c.start()
	c.publishes("web", "203.0.113.1")
}
