package provider

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func TestAServiceOutsideOfANewPolicyKeepsWhatItHasUntilItIsEdited(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web"))
	stop()
	c.config.LoadBalancer.Policy = config.Policy{Ports: []config.NamespacePorts{{Ports: []string{"80"}, Namespaces: []string{"ingress"}}}, MaxDrainSeconds: 300}
	c.start()
	c.eventually("a warning names the port and the field", func() bool {
		return c.hasEvent("Warning InvalidConfiguration web:", "port 80/TCP", "loadBalancer.policy.ports")
	})
	c.settle()
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	if c.daemonSet("web") == nil {
		t.Error("its DaemonSet is gone")
	}
	// Another Service outside of the policy gets nothing.
	c.create(service("other", tcp(80, 81), withAnnotation(options.DrainSeconds, "301")))
	c.eventually("one warning names all that is wrong", func() bool {
		return c.hasEvent("Warning InvalidConfiguration other:", "port 80/TCP", options.DrainSeconds)
	})
	if c.daemonSet("other") != nil {
		t.Error("the other Service has a DaemonSet")
	}
	c.edit("web", tcp(81))
	c.eventually("its proxies get the new port", func() bool {
		for set := range 2 {
			if ds := c.daemonSetOf(set, "web"); ds != nil && slices.Contains(snapshot.HostPorts(ds.Spec.Template.Spec), snapshot.Port{Protocol: v1.ProtocolTCP, Number: 81}) {
				return true
			}
		}
		return false
	})
}

func TestAServiceThatIsOneTooManyIsServedWhenItsTurnComes(t *testing.T) {
	c := twoNodes(t)
	c.config.LoadBalancer.Policy = config.Policy{MaxServicesPerNamespace: 1}
	c.start()
	c.create(service("web", createdAt(1)))
	c.proxy("web", "n1", ready)
	c.proxy("web", "n2", ready)
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.create(service("late", createdAt(2), tcp(81)))
	c.eventually("a warning names the limit", func() bool {
		return c.hasEvent("Warning InvalidConfiguration late:", "maxServicesPerNamespace")
	})
	c.delete("web")
	c.removeProxy("web", "n1")
	c.removeProxy("web", "n2")
	c.eventually("the first is gone", func() bool { return c.isGone("web") })
	c.edit("late", withAnnotation("example.com/again", "1"))
	c.proxy("late", "n1", ready)
	c.publishes("late", "203.0.113.1")
}
