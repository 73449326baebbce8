package proxies

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
)

var podResource = schema.GroupResource{Resource: "pods"}

func forbidden(cause string) error {
	return apierrors.NewForbidden(podResource, "hostport-web-", errors.New(cause))
}

func status(code int, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Code: int32(code), Message: message}}
}

func TestARefusalIsWhatTheAPIServerWouldSayAgain(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"admitted":                          {nil, false},
		"no such priority class":            {forbidden("no PriorityClass with name x was found"), true},
		"wrapped":                           {fmt.Errorf("creating DaemonSet a/b: %w", forbidden("exceeded quota: q")), true},
		"a policy with reason Invalid":      {status(http.StatusUnprocessableEntity, `ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no host ports`), true},
		"a webhook with its own code":       {status(http.StatusTeapot, `admission webhook "w" denied the request: no`), true},
		"a webhook that is down":            {apierrors.NewInternalError(errors.New(`failed calling webhook "w": connection refused`)), true},
		"a webhook that writes elsewhere":   {apierrors.NewBadRequest(`admission webhook "w" does not support dry run`), false},
		"hostport-ccm may not create pods":  {status(http.StatusForbidden, `pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods" in API group "" in the namespace "a"`), false},
		"an error of the API server":        {apierrors.NewInternalError(errors.New("etcd")), false},
		"the API server has no time":        {apierrors.NewTimeoutError("later", 1), false},
		"the API server has no time for us": {apierrors.NewTooManyRequestsError("later"), false},
		"a conflict":                        {apierrors.NewConflict(podResource, "a", errors.New("modified")), false},
		"the credentials have expired":      {apierrors.NewUnauthorized("no"), false},
		"no answer":                         {errors.New("connection refused"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if words, got := refusal(c.err); got != c.want || got && !strings.HasSuffix(c.err.Error(), words) {
				t.Errorf("refused: %t, with words %q", got, words)
			}
		})
	}
}

func TestAQuotaThatTheReplacedPodMakesRoomForIsNoReason(t *testing.T) {
	spec := func(cpu, class string) v1.PodSpec {
		return v1.PodSpec{PriorityClassName: class, Containers: []v1.Container{{
			Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}},
		}}}
	}
	old := spec("10m", "a")
	for name, c := range map[string]struct {
		words string
		after v1.PodSpec
		want  bool
	}{
		"the quota is used up":                     {"exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3", old, true},
		"one of several":                           {"exceeded quota: q, requested: cpu=10m,pods=1, used: cpu=1,pods=3, limited: cpu=1,pods=3", old, true},
		"the quota was lowered below what is used": {"exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=2", old, false},
		"the new pod asks for more":                {"exceeded quota: q, requested: cpu=20m, used: cpu=30m, limited: cpu=30m", spec("20m", "a"), false},
		"the new pod counts in another quota":      {"exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3", spec("10m", "b"), false},
		"something that is not understood":         {"exceeded quota: q, requested: x, used: x, limited: x", old, false},
		"another refusal":                          {"failed quota: q: must specify cpu", old, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fitsAfterReplacing(`pods "a" is forbidden: `+c.words, old, c.after); got != c.want {
				t.Errorf("fits: %t", got)
			}
		})
	}
}

func TestALongRefusalLeavesRoomForWhatToDo(t *testing.T) {
	err := refusedError("proxies of DaemonSet a/"+strings.Repeat("b", 63), strings.Repeat("x", 5000), "10000 of 10000 nodes have none")
	if message := err.Error(); len(message) > events.MaxMessage || !strings.HasSuffix(message, "or sooner") {
		t.Errorf("%d bytes: %s", len(message), message)
	}
	if a, b := refusedError("", "used: pods=3", ""), refusedError("", "used: pods=12", ""); a.Key() != b.Key() {
		t.Error("another number is news")
	}
}
