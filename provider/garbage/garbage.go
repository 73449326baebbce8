// Package garbage deletes orphans: what was made for Services that do not exist any more.
// Finalizers keep a Service until everything is deleted, but somebody may remove finalizers by
// force.
//
// It acts on certainty only: the Service is missing in the cache, and the API server, asked for
// this Service, says so too.
package garbage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

// period is how often orphans are searched. Without orphans, a search costs one request to the
// cloud's API and none to the API server.
const period = time.Minute

// Kind is one kind of resources that are made for Services.
type Kind struct {
	Name string
	// Owners returns the owners of all resources of the kind in this cluster.
	Owners func(context.Context) ([]firewall.Owner, error)
	// Delete deletes all resources of one owner and reports whether there were any.
	Delete func(context.Context, firewall.Owner) (bool, error)
}

// KindOf returns the kind of a store's objects.
func KindOf[T metav1.Object](store objects.Store[T]) Kind {
	return Kind{
		Name:   store.Kind,
		Owners: func(context.Context) ([]firewall.Owner, error) { return store.Owners() },
		Delete: store.DeleteAll,
	}
}

// Collector deletes orphans.
type Collector struct {
	kube     kubernetes.Interface
	settings plan.Settings
	services corelisters.ServiceLister
	manages  func(*v1.Service) bool
	events   *events.Recorder
	kinds    []Kind
	period   time.Duration
}

// New returns a Collector. services lists all Services of the cluster, and manages reports whether
// one is served here or has not been cleaned up. kinds are in the order of deletion: what opens a
// port comes first.
func New(kube kubernetes.Interface, settings plan.Settings, services corelisters.ServiceLister, manages func(*v1.Service) bool, recorder *events.Recorder, kinds ...Kind) *Collector {
	registerMetrics()
	for _, kind := range kinds {
		orphansDeleted.WithLabelValues(kind.Name) // Prometheus sees no increase of a counter that begins at 1.
	}
	return &Collector{kube: kube, settings: settings, services: services, manages: manages, events: recorder, kinds: kinds, period: period}
}

// Run collects once the caches have synced, and then periodically until ctx is done.
func (c *Collector) Run(ctx context.Context, synced cache.InformerSynced) {
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		return
	}
	wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Garbage collection is incomplete, will retry", "in", c.period)
		}
	}, c.period, 0.1, true)
}

// Collect deletes all resources whose Service is gone, and stray mirrors. A kind that cannot be listed ends it, as a
// port has to be closed before what serves it is deleted. An owner that may exist is left alone and
// does not prevent the collection of others.
func (c *Collector) Collect(ctx context.Context) error {
	owners := map[firewall.Owner]bool{}
	for _, kind := range c.kinds {
		list, err := kind.Owners(ctx)
		if err != nil {
			return err
		}
		for _, owner := range list {
			owners[owner] = true
		}
	}
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("listing Services: %w", err)
	}
	// A user may forge a mirror whose mark has the UID of a Service elsewhere.
	existing := map[types.UID]bool{}
	for _, svc := range services {
		existing[svc.UID] = true
	}
	var failures []error
	for owner := range owners {
		if existing[owner.UID] {
			continue
		}
		gone, err := c.isGone(ctx, owner)
		if gone {
			err = c.delete(ctx, owner)
		}
		failures = append(failures, err)
	}
	return errors.Join(append(failures, c.deleteStrayMirrors(ctx, services, existing))...)
}

// isGone reports whether a Service that is not in the cache certainly does not exist. One of the
// same name with another UID is another Service.
func (c *Collector) isGone(ctx context.Context, owner firewall.Owner) (bool, error) {
	at := owner.Service
	svc, err := c.kube.CoreV1().Services(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
	switch {
	case apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		// A 404 that is not about the Service: from a proxy in between, or an API server that has
		// just started.
		return false, fmt.Errorf("reading Service %s: the reply is not from Kubernetes: %w", at, err)
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("reading Service %s: %w", at, err)
	}
	return svc.UID != owner.UID, nil
}

// delete deletes the orphans of one Service, kind by kind, and records an event.
func (c *Collector) delete(ctx context.Context, owner firewall.Owner) error {
	var deleted []string
	var failure error
	for _, kind := range c.kinds {
		found, err := kind.Delete(ctx, owner)
		if err != nil {
			failure = fmt.Errorf("deleting the orphaned %s of Service %s: %w", kind.Name, owner.Service, err)
			break
		}
		if found {
			deleted = append(deleted, kind.Name)
			count(kind.Name)
		}
	}
	if len(deleted) > 0 {
		klog.FromContext(ctx).V(2).Info("Deleted the orphans of a Service", "service", klog.KRef(owner.Service.Namespace, owner.Service.Name), "uid", owner.UID, "kinds", deleted)
		svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: owner.Service.Namespace, Name: owner.Service.Name, UID: owner.UID}}
		c.events.Normal(svc, events.OrphanedResourcesDeleted, fmt.Sprintf(
			"deleted what was made for this Service, which was removed without waiting for its finalizer %s: %s", view.Finalizer, strings.Join(deleted, ", ")))
	}
	return failure
}

var orphansDeleted = metrics.NewCounterVec(&metrics.CounterOpts{
	Namespace:      "hostport_ccm",
	Name:           "orphans_deleted_total",
	Help:           "Resources deleted whose Service was removed without waiting for its finalizer, by kind.",
	StabilityLevel: metrics.ALPHA,
}, []string{"kind"})

func count(kind string) {
	orphansDeleted.WithLabelValues(kind).Inc()
}

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(orphansDeleted) })
