package provider

import (
	"testing"

	"k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

func TestASnapshotIsTakenOncePerChange(t *testing.T) {
	var generation, services, indexed uint64
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	environment := plan.Environment{}
	s := &snapshots{
		generation:  func() uint64 { return generation },
		services:    func() uint64 { return services },
		claimants:   func() []*v1.Service { indexed++; return nil },
		all:         corelisters.NewServiceLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})),
		nodes:       corelisters.NewNodeLister(nodes),
		failures:    noFailureDetection,
		environment: func() plan.Environment { return environment },
	}
	get := func() *snapshot.Cluster { cluster, _ := s.get(t.Context()); return cluster }
	first := get()
	if get() != first || indexed != 1 {
		t.Errorf("without a change, Services were indexed %d times", indexed)
	}
	if err := nodes.Add(node("n1", "203.0.113.1")); err != nil {
		t.Fatal(err)
	}
	generation++
	if second := get(); indexed != 1 || len(first.Nodes) != 0 || len(second.Nodes) != 1 {
		t.Errorf("after a change of a node, Services were indexed %d times, and there are %d and %d nodes", indexed, len(first.Nodes), len(second.Nodes))
	}
	generation, services = generation+1, services+1
	if get(); indexed != 2 {
		t.Errorf("after a change of a Service, Services were indexed %d times", indexed)
	}
	generation++
	environment.KubeProxy = config.KubeProxyIPVS
	if get(); indexed != 3 {
		t.Errorf("after a change of kube-proxy, Services were indexed %d times", indexed)
	}
}
