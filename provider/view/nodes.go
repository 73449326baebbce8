package view

import (
	"time"

	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// QuietNodes returns a NodeInformer for the service controller that lists nodes and reports no
// changes. WatchOwned enqueues Services whenever a node matters, which is more often than the
// controller would; its own way, UpdateLoadBalancer, cannot change a status. And its node worker
// reads without a lock what its service workers write (processServiceCreateOrUpdate and
// serviceCache.allServices, as of v0.37.2; the race detector reports it).
func QuietNodes(real coreinformers.NodeInformer) coreinformers.NodeInformer { return quietNodes{real} }

type quietNodes struct{ coreinformers.NodeInformer }

func (q quietNodes) Informer() cache.SharedIndexInformer {
	return quietInformer{q.NodeInformer.Informer()}
}

type quietInformer struct{ cache.SharedIndexInformer }

// AddEventHandlerWithResyncPeriod ignores the handler. The controller does not use the results.
func (quietInformer) AddEventHandlerWithResyncPeriod(cache.ResourceEventHandler, time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return nil, nil
}
