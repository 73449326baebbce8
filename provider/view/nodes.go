package view

import (
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// QuietNodes returns a NodeInformer for the service controller that lists one node, which stands for all,
// and reports no changes. WatchOwned enqueues Services whenever a node matters to them, which is more often
// than the controller would; its own way, UpdateLoadBalancer, cannot change a status. It would also
// read without a lock in its node worker what its service workers write (processServiceCreateOrUpdate
// and serviceCache.allServices, as of v0.37.2; the race detector reports it). At every sync it copies
// the list of nodes, and keeps it for the Service; EnsureLoadBalancer does not use it.
func QuietNodes(real coreinformers.NodeInformer) coreinformers.NodeInformer { return quietNodes{real} }

type quietNodes struct{ coreinformers.NodeInformer }

func (q quietNodes) Informer() cache.SharedIndexInformer {
	return quietInformer{q.NodeInformer.Informer()}
}

// Lister lists one node that exists nowhere.
func (q quietNodes) Lister() corelisters.NodeLister {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	_ = nodes.Add(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "all"}}) // It has a name: never an error.
	return corelisters.NewNodeLister(nodes)
}

type quietInformer struct{ cache.SharedIndexInformer }

// AddEventHandlerWithResyncPeriod ignores the handler. The controller does not use the results.
func (quietInformer) AddEventHandlerWithResyncPeriod(cache.ResourceEventHandler, time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return nil, nil
}
