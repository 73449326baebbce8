package view

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/internal/apitest"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

// apiServer has one Service, which other clients may change at any time.
type apiServer struct {
	*fake.Clientset
	t *testing.T
	// during is called once, before the next patch is applied.
	during func()
}

func newAPIServer(t *testing.T, svc *v1.Service) *apiServer {
	svc.ResourceVersion = "1"
	s := &apiServer{Clientset: apitest.NewClientset(svc), t: t}
	s.PrependReactor("patch", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		if during := s.during; during != nil {
			s.during = nil
			during()
		}
		return false, nil, nil
	})
	return s
}

func (s *apiServer) live() *v1.Service {
	s.t.Helper()
	live, err := s.Tracker().Get(v1.SchemeGroupVersion.WithResource("services"), "default", "web")
	if err != nil {
		s.t.Fatal(err)
	}
	return live.(*v1.Service)
}

// change updates the Service as another client does.
func (s *apiServer) change(version string, do func(*v1.Service)) {
	s.t.Helper()
	svc := s.live().DeepCopy()
	do(svc)
	svc.ResourceVersion = version
	if err := s.Tracker().Update(v1.SchemeGroupVersion.WithResource("services"), svc, "default"); err != nil {
		s.t.Fatal(err)
	}
}

// release removes the finalizers as the service controller does, from the Service as shown to it.
func (s *apiServer) release(shown *v1.Service) error {
	services, err := NewServices(informers.NewSharedInformerFactory(s, 0).Core().V1().Services(), config.ClassesClass)
	if err != nil {
		return err
	}
	without := shown.DeepCopy()
	without.Finalizers = slices.DeleteFunc(without.Finalizers, func(f string) bool { return f == standard })
	_, err = servicehelper.PatchService(services.Client(s).CoreV1(), shown, without)
	return err
}

func TestFinalizersOfAReleasedServiceAreRemoved(t *testing.T) {
	toOtherClass := func(svc *v1.Service) { *svc = *loadBalancer(other, svc.Finalizers...) }
	for name, c := range map[string]struct {
		before, during func(*v1.Service)
		want           []string
	}{
		"both, if the Service does not want a load balancer any more":                    {nil, nil, []string{"x"}},
		"only ours, if another controller owns the Service":                              {toOtherClass, nil, []string{"x", standard}},
		"only ours, if another controller becomes the owner before the patch is applied": {nil, toOtherClass, []string{"x", standard}},
	} {
		t.Run(name, func(t *testing.T) {
			shown := clusterIPService("x", standard)
			s := newAPIServer(t, clusterIPService("x", Finalizer, standard))
			if c.before != nil {
				s.change("2", c.before)
			}
			if c.during != nil {
				s.during = func() { s.change("2", c.during) }
			}
			if err := s.release(shown); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, s.live().Finalizers); diff != "" {
				t.Errorf("finalizers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAMissingServiceHasNoFinalizersToRemove(t *testing.T) {
	s := newAPIServer(t, clusterIPService(Finalizer, standard))
	if err := s.Tracker().Delete(v1.SchemeGroupVersion.WithResource("services"), "default", "web"); err != nil {
		t.Fatal(err)
	}
	if err := s.release(clusterIPService(standard)); err != nil {
		t.Error(err)
	}
}
