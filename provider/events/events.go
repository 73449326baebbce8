// Package events records events on Services and Nodes. A warning that still holds is recorded again
// after RepeatInterval, not at every sync, and not when another process has just recorded it.
package events

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Reasons of events on Services. Those about proxies are in package publish.
const (
	InvalidConfiguration     = "InvalidConfiguration"
	UnknownAnnotation        = "UnknownAnnotation"
	PortConflict             = "PortConflict"
	HostPortConflict         = "HostPortConflict"
	DatapathFallback         = "DatapathFallback"
	ObjectOverridden         = "ObjectOverridden"
	ProxyNotCreated          = "ProxyNotCreated"
	FirewallChanged          = "FirewallChanged"
	FirewallRepaired         = "FirewallRepaired"
	FirewallUpdateFailed     = "FirewallUpdateFailed"
	FirewallQuotaExceeded    = "FirewallQuotaExceeded"
	ManualChange             = "LoadBalancerManualChange" // as in the GCE provider of k8s.io/cloud-provider-gcp
	OrphanedResourcesDeleted = "OrphanedResourcesDeleted"
)

// Reasons of events on Nodes. That about invalid addresses is in package nodeaddress.
const (
	NodeDown = "LoadBalancerNodeDown"
	NodeUp   = "LoadBalancerNodeUp"
)

// Warning is an event that is visible as long as something is wrong.
type Warning struct {
	Reason, Message string
	// Key identifies a warning whose message changes without being news; empty: the message does.
	Key string
}

// RepeatInterval is after how long a warning that still holds is recorded again. The API server
// deletes events after an hour.
const RepeatInterval = 50 * time.Minute

// MaxMessage is the length in bytes to which messages are cut. It is the limit of the API group
// events.k8s.io.
const MaxMessage = 1024

// Recorder records events, and repeats warnings on Services. Its methods are safe for concurrent
// use.
type Recorder struct {
	recorder record.EventRecorder
	now      func() time.Time

	mu sync.Mutex
	// recorded is when a Service's warnings were last recorded, by reason and key.
	recorded map[types.UID]map[string]time.Time
	// recent are the warnings of earlier processes that have not held in this one yet.
	recent Recent
}

// NewRecorder returns a Recorder that sends events through recorder. recent may be nil.
func NewRecorder(recorder record.EventRecorder, recent Recent) *Recorder {
	return &Recorder{recorder: recorder, now: time.Now, recorded: map[types.UID]map[string]time.Time{}, recent: maps.Clone(recent)}
}

// NewEventRecorder returns a recorder that sends events as component until ctx is done.
func NewEventRecorder(ctx context.Context, kube kubernetes.Interface, component string) record.EventRecorder {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartStructuredLogging(0)
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	context.AfterFunc(ctx, broadcaster.Shutdown)
	return broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: component})
}

// Event records an event on an object, unless it is a warning that an earlier process has recorded
// since RepeatInterval. A message that is too long is cut, and logged as a whole.
func (r *Recorder) Event(object runtime.Object, eventType, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ref, err := reference.GetReference(scheme.Scheme, object); err == nil && eventType == v1.EventTypeWarning &&
		r.now().Sub(r.recall(ref.UID, reason, message)) < RepeatInterval {
		return
	}
	r.event(object, eventType, reason, message)
}

func (r *Recorder) event(object runtime.Object, eventType, reason, message string) {
	if len(message) > MaxMessage {
		klog.Background().Info("A message is too long for an event", "reason", reason, "message", message)
	}
	r.recorder.Event(object, eventType, reason, options.Cut(message, MaxMessage))
}

// Warn records those of the warnings that did not hold at the last call for the Service, or were
// recorded RepeatInterval ago. all are all warnings that hold now.
func (r *Recorder) Warn(svc *v1.Service, all []Warning) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, now, recorded := r.recorded[svc.UID], r.now(), map[string]time.Time{}
	delete(r.recorded, svc.UID)
	for _, w := range all {
		key := w.Reason + " " + w.Key
		if w.Key == "" {
			key += w.Message
		}
		recorded[key] = before[key]
		if before[key].IsZero() {
			recorded[key] = r.recall(svc.UID, w.Reason, w.Message)
		}
		if now.Sub(recorded[key]) >= RepeatInterval {
			recorded[key] = now
			r.event(svc, v1.EventTypeWarning, w.Reason, w.Message)
		}
		r.recorded[svc.UID] = recorded
	}
}

// Holding adds the reasons of the warnings that hold now to all, by the UIDs of their Services.
func (r *Recorder) Holding(all map[types.UID]sets.Set[string]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for service, warnings := range r.recorded {
		if all[service] == nil {
			all[service] = sets.New[string]()
		}
		for key := range warnings {
			reason, _, _ := strings.Cut(key, " ")
			all[service].Insert(reason)
		}
	}
}

// recall returns when an earlier process recorded a warning, once.
func (r *Recorder) recall(object types.UID, reason, message string) time.Time {
	id := identity{object, reason, options.Cut(message, MaxMessage)}
	at := r.recent[id]
	delete(r.recent, id)
	return at
}

// Normal records that something was done for a Service.
func (r *Recorder) Normal(svc *v1.Service, reason, message string) {
	r.Event(svc, v1.EventTypeNormal, reason, message)
}
