package view

import (
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	servicehelper "k8s.io/cloud-provider/service/helpers"
)

const (
	// replyTime is how soon after our own write of a status another component's write counts as a
	// reply to it, as another controller gives it.
	replyTime = 100 * time.Millisecond
	// maxBackoff is the longest delay before a status that another controller wrote is corrected.
	maxBackoff = time.Minute
)

// statusConflicts records which statuses we wrote, and how long to wait before a status that
// another component wrote is corrected. Usually that is batchDelay. If another controller replies
// to each of our writes, the delay doubles: two controllers would otherwise write without end.
type statusConflicts struct {
	now func() time.Time

	mu     sync.Mutex
	writes map[types.NamespacedName]statusWrite
}

// statusWrite is our last write of a Service's status.
type statusWrite struct {
	status v1.LoadBalancerStatus
	// previous is our write before it, which may be observed after it was made.
	previous v1.LoadBalancerStatus
	at       time.Time
	// backoff is the delay before it.
	backoff time.Duration
}

func newStatusConflicts() *statusConflicts {
	return &statusConflicts{now: time.Now, writes: map[types.NamespacedName]statusWrite{}}
}

// wrote records that we wrote a status.
func (c *statusConflicts) wrote(service types.NamespacedName, status v1.LoadBalancerStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.writes[service]
	c.writes[service] = statusWrite{status, last.status, c.now(), last.backoff}
}

// observed returns after how long to sync a Service whose status was observed to have changed; zero
// if it is as we wrote it.
func (c *statusConflicts) observed(service types.NamespacedName, status v1.LoadBalancerStatus) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.writes[service]
	written := !last.at.IsZero() // Else there is a backoff only.
	if written && servicehelper.LoadBalancerStatusEqual(&last.status, &status) {
		return 0
	}
	if written && servicehelper.LoadBalancerStatusEqual(&last.previous, &status) {
		return batchDelay // Our own write, or another component restored it.
	}
	isReply := written && c.now().Sub(last.at) < replyTime
	if !isReply || last.backoff == 0 {
		last.backoff = batchDelay
	} else {
		last.backoff = min(2*last.backoff, maxBackoff)
	}
	c.writes[service] = last
	return last.backoff
}

// forget deletes the record of a Service that is gone.
func (c *statusConflicts) forget(service types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.writes, service)
}
