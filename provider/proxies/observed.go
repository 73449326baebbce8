package proxies

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// observedPods are the Services that are being deleted, and whether all of their proxies were in the cache
// when that began. If so, the proxies have ended once none is in the cache any more.
type observedPods struct {
	mu       sync.Mutex
	services map[types.UID]bool
}

// add adds a Service, unless its deletion has begun before.
func (o *observedPods) add(service types.UID, all bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, begun := o.services[service]; !begun {
		o.services[service] = all
	}
}

// take reports whether all proxies were in the cache, and if so, forgets the Service.
func (o *observedPods) take(service types.UID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.services[service]
	if all {
		delete(o.services, service)
	}
	return all
}

func (o *observedPods) forget(service types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.services, service)
}
