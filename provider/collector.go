package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/trigger"
)

// collectEvery is how often leftovers are looked for. With nothing left behind
// it costs one request to the cloud's API, and none to Kubernetes'.
const collectEvery = time.Minute

// leftovers knows one kind of thing that is made for Services.
type leftovers struct {
	kind string
	// owners returns for whom in this cluster there are such things.
	owners func(context.Context) ([]firewall.Owner, error)
	// remove removes all of them that were made for one owner, and says
	// whether any was still there.
	remove func(context.Context, firewall.Owner) (bool, error)
}

// collector removes what was made for Services that are gone. A finalizer
// keeps a Service until nothing is left of it, but people remove finalizers by
// force.
//
// It acts on certainty only: the Service is missing in memory, and the API
// server, asked about this very Service, says the same.
type collector struct {
	kube     kubernetes.Interface
	services corelisters.ServiceLister
	reporter *reporter
	// kinds are in the order of removal: what opens a port goes first.
	kinds []leftovers
}

func newCollector(l *loadBalancer, services corelisters.ServiceLister) *collector {
	return &collector{kube: l.kube, services: services, reporter: l.reporter, kinds: []leftovers{
		l.openings.leftovers(l.settings.ClusterID, l.defaults.Firewall),
		l.mirrors.leftovers(),
		l.daemonSets.leftovers(),
		l.configMaps.leftovers(),
	}}
}

// run collects once memory is filled, and then periodically until ctx is done.
func (c *collector) run(ctx context.Context, synced cache.InformerSynced, every time.Duration) {
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		return
	}
	wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if err := c.collect(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Not everything that Services may have left behind could be looked at; trying again", "in", every)
		}
	}, every, 0.1, true)
}

// collect removes everything whose Service is gone. A kind that cannot be
// listed ends it, as a port has to be closed before what serves it goes; an
// owner in doubt is left alone and does not stand in the way of others.
func (c *collector) collect(ctx context.Context) error {
	owners := map[firewall.Owner]bool{}
	for _, kind := range c.kinds {
		of, err := kind.owners(ctx)
		if err != nil {
			return err
		}
		for _, owner := range of {
			owners[owner] = true
		}
	}
	var failed []error
	for owner := range owners {
		gone, err := c.isGone(ctx, owner)
		if gone {
			err = c.remove(ctx, owner)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// isGone says whether a Service certainly does not exist. One of the same name
// with another UID is another Service.
func (c *collector) isGone(ctx context.Context, owner firewall.Owner) (bool, error) {
	at := owner.Service
	if svc, err := c.services.Services(at.Namespace).Get(at.Name); err == nil && svc.UID == owner.UID {
		return false, nil
	}
	svc, err := c.kube.CoreV1().Services(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
	switch {
	case apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		// A 404 that is not about the Service: from a proxy in between, or an
		// API server that has just started.
		return false, fmt.Errorf("looking for Service %s: the reply is not Kubernetes': %w", at, err)
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("looking for Service %s: %w", at, err)
	}
	return svc.UID != owner.UID, nil
}

// remove removes what is left of one Service, kind by kind, and tells of it.
func (c *collector) remove(ctx context.Context, owner firewall.Owner) error {
	var removed []string
	var failed error
	for _, kind := range c.kinds {
		there, err := kind.remove(ctx, owner)
		if err != nil {
			failed = fmt.Errorf("removing the %s that Service %s left behind: %w", kind.kind, owner.Service, err)
			break
		}
		if there {
			removed = append(removed, kind.kind)
			countLeftovers(kind.kind)
		}
	}
	if len(removed) > 0 {
		klog.FromContext(ctx).V(2).Info("Removed what a Service left behind", "service", klog.KRef(owner.Service.Namespace, owner.Service.Name), "uid", owner.UID, "removed", removed)
		c.reporter.changed(remains(owner), reasonLeftoversRemoved, fmt.Sprintf(
			"removed what this Service left behind when it went without waiting for its finalizer %s: %s", trigger.Finalizer, strings.Join(removed, ", ")))
	}
	return failed
}

// remains is all that is still known of a Service.
func remains(owner firewall.Owner) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: owner.Service.Namespace, Name: owner.Service.Name, UID: owner.UID}}
}
