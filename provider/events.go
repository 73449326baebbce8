package provider

import (
	"sync"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

// Reasons of our own events on Services. Those of package publish come on top.
const (
	reasonRefused           = "LoadBalancerRefused"
	reasonUnknownAnnotation = "UnknownAnnotation"
	reasonPortsNotServed    = "PortsNotServed"
	reasonFirewallFailed    = "FirewallNotUpdated"
	reasonFirewallChanged   = "FirewallChanged"
	reasonFirewallRepaired  = "FirewallRepaired"
	reasonFirewallQuota     = "FirewallQuotaExceeded"
	reasonFirewallByHand    = "FirewallCommand"
	reasonLeftoversRemoved  = "LeftoversRemoved"
	reasonDatapathFallback  = "DatapathFallback"
	reasonHostPortTaken     = "HostPortTaken"
	// On Nodes.
	reasonNodeDown = "LoadBalancerNodeDown"
	reasonNodeBack = "LoadBalancerNodeBack"
)

// warning is an event to be seen as long as something is wrong.
type warning struct {
	reason, message string
	// key tells apart what is news; empty: the message does.
	key string
}

// retell is after how long a warning is sent again that still holds: the API
// server forgets events after an hour.
const retell = 50 * time.Minute

// reporter sends a warning once and not again before retell, unless it has gone
// in between: Ensure runs often, and every time finds the same.
type reporter struct {
	recorder record.EventRecorder
	now      func() time.Time

	mu sync.Mutex
	// told is when a warning was last sent, by its key.
	told map[types.UID]map[string]time.Time
}

func newReporter(recorder record.EventRecorder) *reporter {
	return &reporter{recorder: recorder, now: time.Now, told: map[types.UID]map[string]time.Time{}}
}

// warn sends those of the warnings that were not there last time, or a long time
// ago. all is everything that is wrong with the Service now.
func (r *reporter) warn(svc *v1.Service, all []warning) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, now, told := r.told[svc.UID], r.now(), map[string]time.Time{}
	delete(r.told, svc.UID)
	for _, w := range all {
		key := w.reason + " " + w.key
		if w.key == "" {
			key += w.message
		}
		if told[key] = before[key]; now.Sub(before[key]) >= retell {
			told[key] = now
			r.recorder.Event(svc, v1.EventTypeWarning, w.reason, w.message)
		}
		r.told[svc.UID] = told
	}
}

// changed tells of something that was done.
func (r *reporter) changed(svc *v1.Service, reason, message string) {
	r.recorder.Event(svc, v1.EventTypeNormal, reason, message)
}
