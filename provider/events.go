package provider

import (
	"slices"
	"sync"

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

// reasonExternalIPsInvalid is of events on Nodes.
const reasonExternalIPsInvalid = "ExternalIPsInvalid"

// reporter sends a warning once and not again until it has gone in between:
// Ensure runs often, and every time finds the same.
type reporter struct {
	recorder record.EventRecorder

	mu   sync.Mutex
	told map[types.UID][]string
}

func newReporter(recorder record.EventRecorder) *reporter {
	return &reporter{recorder: recorder, told: map[types.UID][]string{}}
}

// warn sends those of the warnings that were not there last time. all is
// everything that is wrong with the Service now.
func (r *reporter) warn(svc *v1.Service, all []warning) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.told[svc.UID]
	delete(r.told, svc.UID)
	for _, w := range all {
		key := w.reason + " " + w.key
		if w.key == "" {
			key += w.message
		}
		r.told[svc.UID] = append(r.told[svc.UID], key)
		if !slices.Contains(before, key) {
			r.recorder.Event(svc, v1.EventTypeWarning, w.reason, w.message)
		}
	}
}

// changed tells of something that was done.
func (r *reporter) changed(svc *v1.Service, reason, message string) {
	r.recorder.Event(svc, v1.EventTypeNormal, reason, message)
}
