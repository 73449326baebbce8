package provider

import (
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/failover"
)

// fakeWatch is a nodeWatch whose verdicts are the test's.
type fakeWatch struct {
	mu   sync.Mutex
	dead []string
	tell func(failover.Verdict)
	// looks counts Masks since the last set.
	looks int
}

func (f *fakeWatch) Mask(nodes []*v1.Node) []*v1.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	var masked []*v1.Node
	for _, node := range nodes {
		if slices.Contains(f.dead, node.Name) {
			node = node.DeepCopy()
			node.Status.Conditions[0].Status = v1.ConditionUnknown
		}
		masked = append(masked, node)
	}
	return masked
}

func (f *fakeWatch) Follow(tell func(failover.Verdict)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tell = tell
	for _, node := range f.dead {
		tell(failover.Verdict{Node: node, Down: true, Message: node + " is dead"})
	}
}

// set makes exactly these nodes dead; the verdict on node is told.
func (f *fakeWatch) set(node string, dead ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.looks = dead, 0
	f.tell(failover.Verdict{Node: node, Down: slices.Contains(dead, node), Message: node + " is judged"})
}

func (f *fakeWatch) looked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks > 0
}

func TestADeadNodeLeavesBeforeKubernetesKnows(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	daemonSet, writes := c.daemonSet("web"), c.firewall.Writes()
	c.nodes.set("n2", "n2")
	c.publishes("web", "203.0.113.1")
	c.eventually("an event on the node", func() bool { return c.hasEvent("Warning LoadBalancerNodeDown n2: n2 is judged") })
	c.nodes.set("n1", "n1", "n2")
	c.eventually("the Service is looked at", c.nodes.looked)
	c.nodes.set("n1", "n1", "n2")
	c.eventually("the Service is looked at again", c.nodes.looked)
	c.publishes("web", "203.0.113.1") // Nothing is known to serve.
	c.nodes.set("n2", "n1")
	c.publishes("web", "203.0.113.2")
	c.nodes.set("n1")
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.eventually("an event on the node", func() bool { return c.hasEvent("Normal LoadBalancerNodeBack n1: n1 is judged") })
	if diff := cmp.Diff(daemonSet, c.daemonSet("web")); diff != "" || c.firewall.Writes() != writes {
		t.Errorf("the firewall was written %d times, the DaemonSet changed (-before +after):\n%s", c.firewall.Writes()-writes, diff)
	}
}

func TestANewLeaderKnowsDeadNodes(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web"))
	stop()
	c.nodes.dead = []string{"n2"}
	c.start()
	c.publishes("web", "203.0.113.1")
}
