package garbage

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// strayMirror is a mirror of Service web with a change, and what of it is found in a cluster.
type strayMirror struct {
	change func(mirror *v1.Service)
	// service is nil if there is none.
	service func(svc *v1.Service)
	stored  bool
	// forbidden reports that mirrors cannot be deleted.
	forbidden bool
	want      []string
}

func unmarked(mirror *v1.Service) { mirror.Labels, mirror.OwnerReferences = nil, nil }

var strayMirrors = map[string]strayMirror{
	"the mirror of a Service":                              {change: func(*v1.Service) {}, service: func(*v1.Service) {}},
	"the mirror of a Service, without any mark":            {change: unmarked, service: func(*v1.Service) {}},
	"the mirror of a Service that is not in the cache yet": {change: unmarked, stored: true},
	"the mirror of no Service, without any mark":           {change: unmarked, want: []string{"patch", "delete"}},
	"the mirror of a Service that is not ours any more":    {change: func(*v1.Service) {}, service: func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP }, want: []string{"patch", "delete"}},
	"a copy under another name":                            {change: func(m *v1.Service) { m.Name = "copy" }, service: func(*v1.Service) {}, want: []string{"patch", "delete"}},
	"an empty one with our mark":                           {change: func(m *v1.Service) { m.Name, m.Status = "copy", v1.ServiceStatus{} }, service: func(*v1.Service) {}, want: []string{"delete"}},
	"an empty one without our mark":                        {change: func(m *v1.Service) { unmarked(m); m.Status = v1.ServiceStatus{} }},
	"one that a finalizer holds": {change: func(m *v1.Service) {
		unmarked(m)
		m.DeletionTimestamp, m.Finalizers = &metav1.Time{Time: time.Now()}, []string{"x"}
	}, want: []string{"patch"}},
	"the mirror of no Service, without the right to delete it": {change: unmarked, forbidden: true, want: []string{"patch", "delete"}},
	"a Service of another class":                               {change: func(m *v1.Service) { m.Spec.LoadBalancerClass = nil; m.Name = "other" }, service: func(*v1.Service) {}},
}

func TestStrayMirrorsAreEmptiedAndDeleted(t *testing.T) {
	web := owner("alpha", "web", "1-uid")
	for name, tt := range strayMirrors {
		t.Run(name, func(t *testing.T) {
			e := newEnvironment(t.Fatal)
			p, err := planFor(web)
			if err != nil {
				t.Fatal(err)
			}
			mirror := p.Mirror
			mirror.UID, mirror.ResourceVersion = "mirror-uid", "7"
			mirror.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "10.0.0.1"}}
			tt.change(mirror)
			objects := []*v1.Service{mirror}
			if tt.service != nil {
				svc := serviceOf(web)
				tt.service(svc)
				objects = append(objects, svc)
			}
			for _, svc := range objects {
				if err := e.cached.Add(svc); err != nil {
					t.Fatal(err)
				}
			}
			if tt.stored {
				objects = append(objects, serviceOf(web))
			}
			for _, svc := range objects {
				if err := e.kube.Tracker().Add(svc.DeepCopy()); err != nil {
					t.Fatal(err)
				}
			}
			if tt.forbidden {
				e.kube.PrependReactor("delete", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewForbidden(v1.Resource("services"), mirror.Name, nil)
				})
			}
			if err := e.Collect(t.Context()); err != nil {
				t.Error(err)
			}
			var writes []string
			for _, action := range e.kube.Actions() {
				if slices.Contains([]string{"patch", "delete"}, action.GetVerb()) {
					writes = append(writes, action.GetVerb())
				}
			}
			if diff := cmp.Diff(tt.want, writes); diff != "" {
				t.Errorf("writes (-want +got):\n%s", diff)
			}
			deleted := slices.Contains(tt.want, "delete") && !tt.forbidden
			if got := len(e.recorder.Events) == 1; got != deleted {
				t.Errorf("event: %t, deleted: %t", got, deleted)
			}
			if live, err := e.kube.CoreV1().Services("default").Get(t.Context(), mirror.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) != deleted ||
				err == nil && slices.Contains(tt.want, "patch") && len(live.Status.LoadBalancer.Ingress) > 0 {
				t.Errorf("afterwards: %v, %v", live, err)
			}
		})
	}
}
