package provider

import (
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestANodeThatPacketsDoNotReachIsNotPublished(t *testing.T) {
	c := twoNodes(t)
	c.unreachable = &atomic.Pointer[map[string][]v1.IPFamily]{}
	find := func(nodes ...string) {
		found := map[string][]v1.IPFamily{}
		for _, node := range nodes {
			found[node] = []v1.IPFamily{v1.IPv4Protocol}
		}
		c.unreachable.Store(&found)
	}
	find()
	c.start()
	c.serve(service("web"))
	name := types.NamespacedName{Namespace: "default", Name: "web"}
	find("n1")
	c.balancer.services.Enqueue(name)
	c.publishes("web", "203.0.113.2")
	find("n1", "n2")
	c.balancer.services.Enqueue(name)
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	find("n2")
	c.edit("web", func(svc *v1.Service) { svc.Annotations = map[string]string{"hostport-ccm.io/drain-seconds": "x"} })
	c.publishes("web", "203.0.113.1")
}
