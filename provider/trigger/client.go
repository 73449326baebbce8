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
	servicehelper "k8s.io/cloud-provider/service/helpers"
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
	data, err := translate(data, c.foreign(name))
	if err != nil {
		return nil, fmt.Errorf("reading the service controller's patch of Service %s/%s: %w", c.namespace, name, err)
	}
	svc, err := c.ServiceInterface.Patch(ctx, name, kind, data, opts, subresources...)
	if apierrors.IsNotFound(err) && bytes.Contains(data, []byte(removal)) {
		// Its memory was a moment behind: the finalizer went with the Service.
		return &v1.Service{}, nil
	}
	if err == nil && slices.Contains(subresources, "status") {
		c.services.statuses.wrote(types.NamespacedName{Namespace: c.namespace, Name: name}, svc.Status.LoadBalancer)
	}
	return svc, err
}

// removal is how a strategic merge patch takes away finalizers.
const removal = "$deleteFromPrimitiveList/finalizers"

// translate puts our finalizer beside the standard one, or in its place, in a
// strategic merge patch. One that leaves finalizers alone does not mention them.
func translate(data []byte, foreign bool) ([]byte, error) {
	var patch map[string]any
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, err
	}
	metadata, _ := patch["metadata"].(map[string]any)
	if list, there := metadata["finalizers"]; there && list == nil {
		// So it says that none is left of those it was shown. The real Service
		// may have more.
		delete(metadata, "finalizers")
		metadata[removal] = []string{servicehelper.LoadBalancerCleanupFinalizer}
	}
	data, err := json.Marshal(patch)
	standard, ours := []byte(`"`+servicehelper.LoadBalancerCleanupFinalizer+`"`), []byte(`"`+Finalizer+`"`)
	if !foreign {
		ours = append(append(ours, ','), standard...)
	}
	return bytes.ReplaceAll(data, standard, ours), err
}

func (c serviceClient) foreign(name string) bool {
	svc, err := c.services.real.Lister().Services(c.namespace).Get(name)
	return err == nil && svc.Spec.Type == v1.ServiceTypeLoadBalancer && !c.services.view.classes.Serves(svc.Spec.LoadBalancerClass)
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
