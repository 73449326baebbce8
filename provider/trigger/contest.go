package trigger

import (
	"sync"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	servicehelper "k8s.io/cloud-provider/service/helpers"
)

const (
	// contested is how soon after our own write of a status somebody else's
	// counts as an answer to it, as another controller gives it.
	contested = 100 * time.Millisecond
	// maxTruce is how long a status that another controller goes on writing is
	// left to it, at most.
	maxTruce = time.Minute
)

// contest knows which writes of statuses are ours, and how long to wait before a
// status that somebody else wrote is put right: not long, unless it is another
// controller that answers each of our writes with one of its own. Two that do not
// give in would keep the API server busy for ever.
type contest struct {
	now func() time.Time

	mu  sync.Mutex
	own map[types.NamespacedName]ownWrite
}

// ownWrite is our last write of a status.
type ownWrite struct {
	status v1.LoadBalancerStatus
	// before is the write before it, which may be seen after it was made.
	before v1.LoadBalancerStatus
	at     time.Time
	// truce is how long was waited before it.
	truce time.Duration
}

func newContest() *contest {
	return &contest{now: time.Now, own: map[types.NamespacedName]ownWrite{}}
}

// wrote notes that we have written a status.
func (c *contest) wrote(service types.NamespacedName, status v1.LoadBalancerStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.own[service]
	c.own[service] = ownWrite{status, last.status, c.now(), last.truce}
}

// seen returns after how long a status is to be looked at that was seen to have
// changed; zero if it is as we wrote it.
func (c *contest) seen(service types.NamespacedName, status v1.LoadBalancerStatus) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, written := c.own[service]
	if written && servicehelper.LoadBalancerStatusEqual(&last.status, &status) {
		return 0
	}
	if written && servicehelper.LoadBalancerStatusEqual(&last.before, &status) {
		return burst // Ours, or somebody went back to it.
	}
	answer := c.now().Sub(last.at) < contested
	if !answer || last.truce == 0 {
		last.truce = burst
	} else {
		last.truce = min(2*last.truce, maxTruce)
	}
	c.own[service] = last
	return last.truce
}

// forget drops what is known of a Service that is gone.
func (c *contest) forget(service types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.own, service)
}
