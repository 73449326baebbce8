package trigger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/retry"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

// Client returns a client for the service controller, which translates back
// what the controller writes about Services as shown by s:
//
//   - where it adds or removes the standard finalizer, ours goes with it, in the
//     same request; from a Service that is someone else's by now only ours is
//     removed;
//   - the events "Ensuring", "Ensured" and "UnAvailable", which it sends at every
//     look at a Service, are dropped: they would tell of nothing new and cost a
//     write each. That there is no node is told by package provider, with why;
//   - so are warnings of ErrUnderWay.
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

// Patch is the only way in which the controller writes Services
// (k8s.io/cloud-provider/service/helpers.PatchService).
func (c serviceClient) Patch(ctx context.Context, name string, kind types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (*v1.Service, error) {
	data, removes, err := translate(data)
	if err != nil {
		return nil, fmt.Errorf("reading the service controller's patch of Service %s/%s: %w", c.namespace, name, err)
	}
	if removes {
		return c.release(ctx, name, kind, data, opts, subresources...)
	}
	svc, err := c.ServiceInterface.Patch(ctx, name, kind, data, opts, subresources...)
	if err == nil && slices.Contains(subresources, "status") {
		c.services.statuses.wrote(types.NamespacedName{Namespace: c.namespace, Name: name}, svc.Status.LoadBalancer)
	}
	return svc, err
}

// release is Patch where finalizers are removed. Whose the standard one is has to
// be known for certain, and memory may be a moment behind: so the Service is
// asked for, and must not have changed when the patch arrives.
func (c serviceClient) release(ctx context.Context, name string, kind types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (svc *v1.Service, err error) {
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		live, err := c.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		removal, err := removalFrom(live, data, c.services.view.classes)
		if err != nil {
			return err
		}
		svc, err = c.ServiceInterface.Patch(ctx, name, kind, removal, opts, subresources...)
		return err
	})
	if apierrors.IsNotFound(err) {
		// The finalizer went with the Service.
		return &v1.Service{}, nil
	}
	return svc, err
}

// removal is how a strategic merge patch takes away finalizers.
const removal = "$deleteFromPrimitiveList/finalizers"

// translate puts our finalizer beside the standard one in a strategic merge
// patch, and says whether it removes them. One that leaves finalizers alone does
// not mention them.
func translate(data []byte) (translated []byte, removes bool, err error) {
	var patch map[string]any
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, false, err
	}
	metadata, _ := patch["metadata"].(map[string]any)
	if list, there := metadata["finalizers"]; there && list == nil {
		// So it says that none is left of those it was shown. The real Service
		// may have more.
		delete(metadata, "finalizers")
		metadata[removal] = []string{servicehelper.LoadBalancerCleanupFinalizer}
	}
	_, removes = metadata[removal]
	data, err = json.Marshal(patch)
	both := quote(Finalizer) + "," + quote(servicehelper.LoadBalancerCleanupFinalizer)
	return bytes.ReplaceAll(data, []byte(quote(servicehelper.LoadBalancerCleanupFinalizer)), []byte(both)), removes, err
}

func quote(finalizer string) string { return `"` + finalizer + `"` }

// removalFrom makes a patch that removes both finalizers one for a Service as it
// is now. From one that is someone else's only ours goes.
func removalFrom(live *v1.Service, data []byte, classes config.Classes) ([]byte, error) {
	var patch map[string]any
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, err
	}
	metadata := patch["metadata"].(map[string]any)
	metadata["resourceVersion"] = live.ResourceVersion
	if live.Spec.Type == v1.ServiceTypeLoadBalancer && !classes.Serves(live.Spec.LoadBalancerClass) {
		metadata[removal] = []string{Finalizer}
	}
	return json.Marshal(patch)
}

type eventClient struct{ typedcorev1.EventInterface }

// ErrUnderWay is to be the end of an error where nothing is wrong but that
// something takes its time. The controller tries again after a while, or when
// the Service is resumed.
var ErrUnderWay = errors.New("it takes its time, and is continued when that is over")

// routine are events that the controller sends at every look, whether or not
// there is anything new or wrong.
func routine(event *v1.Event) bool {
	return slices.Contains([]string{"EnsuringLoadBalancer", "EnsuredLoadBalancer", "UnAvailableLoadBalancer"}, event.Reason) ||
		strings.HasSuffix(event.Message, ErrUnderWay.Error())
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
