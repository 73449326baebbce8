package view

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/retry"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

// Client returns a client for the service controller. It translates what the controller writes
// about Services as shown by s:
//   - Where the controller adds or removes the standard finalizer, ours is added or removed in the
//     same request. From a Service that is another controller's by now, only ours is removed.
//   - The events EnsuringLoadBalancer, EnsuredLoadBalancer and UnAvailableLoadBalancer, which it
//     records at every sync, are dropped: they are never news and cost a write each. Package
//     provider records why there is no node.
//   - Warnings about ErrDeletionInProgress are dropped.
func (s *Services) Client(kube kubernetes.Interface) kubernetes.Interface { return client{kube, s} }

type client struct {
	kubernetes.Interface
	services *Services
}

func (c client) CoreV1() typedcorev1.CoreV1Interface {
	return coreClient{c.Interface.CoreV1(), c.services}
}

type coreClient struct {
	typedcorev1.CoreV1Interface
	services *Services
}

func (c coreClient) Services(namespace string) typedcorev1.ServiceInterface {
	return serviceClient{c.CoreV1Interface.Services(namespace), c.services, namespace}
}

func (c coreClient) Events(namespace string) typedcorev1.EventInterface {
	return eventClient{c.CoreV1Interface.Events(namespace)}
}

type serviceClient struct {
	typedcorev1.ServiceInterface
	services  *Services
	namespace string
}

// Patch adds our finalizer where the controller changes the standard one, and records the status
// that it writes. The controller writes Services in no other way
// (k8s.io/cloud-provider/service/helpers.PatchService).
func (c serviceClient) Patch(ctx context.Context, name string, kind types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (*v1.Service, error) {
	data, removes, err := addFinalizer(data)
	if err != nil {
		return nil, fmt.Errorf("reading the service controller's patch of Service %s/%s: %w", c.namespace, name, err)
	}
	if removes {
		return c.patchRemoval(ctx, name, kind, data, opts, subresources...)
	}
	svc, err := c.ServiceInterface.Patch(ctx, name, kind, data, opts, subresources...)
	if err == nil && slices.Contains(subresources, "status") {
		service := types.NamespacedName{Namespace: c.namespace, Name: name}
		c.services.statuses.wrote(service, svc.Status.LoadBalancer)
		if changesStatus(data) {
			c.services.times.wrote(service)
		}
	}
	return svc, err
}

// patchRemoval is Patch for a patch that removes finalizers. The standard finalizer may be another
// controller's by now, and the cache may be stale. So the patch holds for the state in the cache only; if
// that is stale, the Service is read.
func (c serviceClient) patchRemoval(ctx context.Context, name string, kind types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (svc *v1.Service, err error) {
	known := c.services.Newest(types.NamespacedName{Namespace: c.namespace, Name: name})
	if known == nil && c.services.real.Informer().HasSynced() {
		return &v1.Service{}, nil // The Service is gone. Another of its name has finalizers of its own.
	}
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		state := known
		if known = nil; state == nil {
			if state, err = c.Get(ctx, name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		limited, err := removalFor(state, data, c.services.visibility.classes)
		if err != nil {
			return err
		}
		svc, err = c.ServiceInterface.Patch(ctx, name, kind, limited, opts, subresources...)
		return err
	})
	if apierrors.IsNotFound(err) {
		return &v1.Service{}, nil // The Service is gone.
	}
	return svc, err
}

// removeFinalizers is the field of a strategic merge patch that removes finalizers.
const removeFinalizers = "$deleteFromPrimitiveList/finalizers"

// addFinalizer adds our finalizer to the standard one in a strategic merge patch, and reports
// whether the patch removes them. A patch that does not change finalizers does not have them.
func addFinalizer(data []byte) (translated []byte, removes bool, err error) {
	var patch map[string]any
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, false, err
	}
	metadata, _ := patch["metadata"].(map[string]any)
	if list, there := metadata["finalizers"]; there && list == nil {
		// All finalizers that the controller was shown are removed. The real Service may have more.
		delete(metadata, "finalizers")
		metadata[removeFinalizers] = []string{servicehelper.LoadBalancerCleanupFinalizer}
	}
	_, removes = metadata[removeFinalizers]
	data, err = json.Marshal(patch)
	both := quote(Finalizer) + "," + quote(servicehelper.LoadBalancerCleanupFinalizer)
	return bytes.ReplaceAll(data, []byte(quote(servicehelper.LoadBalancerCleanupFinalizer)), []byte(both)), removes, err
}

func quote(finalizer string) string { return `"` + finalizer + `"` }

// removalFor limits a patch that removes both finalizers to the state of a Service that was read.
// From another controller's Service it removes only ours.
func removalFor(live *v1.Service, data []byte, classes config.Classes) ([]byte, error) {
	var patch map[string]any
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, err
	}
	metadata := patch["metadata"].(map[string]any)
	metadata["resourceVersion"] = live.ResourceVersion
	if live.Spec.Type == v1.ServiceTypeLoadBalancer && !classes.Serves(live.Spec.LoadBalancerClass) {
		metadata[removeFinalizers] = []string{Finalizer}
	}
	return json.Marshal(patch)
}

type eventClient struct{ typedcorev1.EventInterface }

// ErrDeletionInProgress is wrapped at the end of an error where nothing is wrong, but an operation
// has not finished. The controller retries later, or when Resume is called.
var ErrDeletionInProgress = errors.New("the operation is in progress, and the deletion continues when it has finished")

// routine reports whether the controller records an event at every sync, whether or not it is news.
func routine(event *v1.Event) bool {
	return slices.Contains([]string{"EnsuringLoadBalancer", "EnsuredLoadBalancer", "UnAvailableLoadBalancer"}, event.Reason) ||
		strings.HasSuffix(event.Message, ErrDeletionInProgress.Error())
}

func (c eventClient) CreateWithEventNamespace(event *v1.Event) (*v1.Event, error) {
	if routine(event) {
		return event, nil
	}
	//lint:ignore SA1019 the event broadcaster of client-go calls this one
	return c.EventInterface.CreateWithEventNamespace(event)
}

func (c eventClient) PatchWithEventNamespace(event *v1.Event, data []byte) (*v1.Event, error) {
	if routine(event) {
		return event, nil
	}
	//lint:ignore SA1019 the event broadcaster of client-go calls this one
	return c.EventInterface.PatchWithEventNamespace(event, data)
}
