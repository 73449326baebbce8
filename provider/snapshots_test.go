package provider

import (
	"testing"

	"k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func TestASnapshotIsTakenOncePerChange(t *testing.T) {
	var generation, taken uint64
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	s := &snapshots{
		generation: func() uint64 { return generation },
		claimants:  func() []*v1.Service { taken++; return nil },
		services:   corelisters.NewServiceLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})),
		nodes:      corelisters.NewNodeLister(nodes),
		failures:   noFailureDetection,
	}
	first := s.get(t.Context())
	if s.get(t.Context()) != first || taken != 1 {
		t.Errorf("without a change, %d snapshots were taken", taken)
	}
	if err := nodes.Add(node("n1", "203.0.113.1")); err != nil {
		t.Fatal(err)
	}
	generation++
	if second := s.get(t.Context()); taken != 2 || len(first.Nodes) != 0 || len(second.Nodes) != 1 {
		t.Errorf("after a change, %d snapshots were taken, with %d and %d nodes", taken, len(first.Nodes), len(second.Nodes))
	}
}
