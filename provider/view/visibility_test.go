package view

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

const (
	standard = servicehelper.LoadBalancerCleanupFinalizer
	other    = "example.com/other"
)

func loadBalancer(class string, finalizers ...string) *v1.Service {
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Finalizers: finalizers},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer},
		Status:     v1.ServiceStatus{LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: "203.0.113.1"}}}},
	}
	if class != "" {
		svc.Spec.LoadBalancerClass = &class
	}
	return svc
}

func clusterIPService(finalizers ...string) *v1.Service {
	svc := loadBalancer("", finalizers...)
	svc.Spec.Type, svc.Status = v1.ServiceTypeClusterIP, v1.ServiceStatus{}
	return svc
}

func deleting(svc *v1.Service) *v1.Service {
	svc.DeletionTimestamp = &metav1.Time{}
	return svc
}

func TestTheControllerSeesOnlyOurServices(t *testing.T) {
	for name, c := range map[string]struct {
		classes config.Classes
		real    *v1.Service
		want    *v1.Service // Nil if the Service is hidden.
	}{
		"a Service without a class":                                             {config.ClassesBoth, loadBalancer(""), loadBalancer("")},
		"a Service of our class as one without a class":                         {config.ClassesClass, loadBalancer(config.LoadBalancerClass, "x"), loadBalancer("", "x")},
		"our finalizer as the standard one":                                     {config.ClassesBoth, loadBalancer("", Finalizer), loadBalancer("", standard)},
		"both finalizers as one":                                                {config.ClassesBoth, loadBalancer("", "x", standard, Finalizer), loadBalancer("", "x", standard)},
		"no finalizer without ours":                                             {config.ClassesBoth, loadBalancer("", standard), loadBalancer("")},
		"no Service of another class":                                           {config.ClassesBoth, loadBalancer(other, standard), nil},
		"no Service without a class if only ours is configured":                 {config.ClassesClass, loadBalancer("", standard), nil},
		"no Service of our class if only none is configured":                    {config.ClassesNone, loadBalancer(config.LoadBalancerClass), nil},
		"a Service that changed to another class as one of type ClusterIP":      {config.ClassesBoth, loadBalancer(other, Finalizer, standard), clusterIPService(standard)},
		"a Service that changed to type ClusterIP, with its finalizer":          {config.ClassesClass, clusterIPService(Finalizer), clusterIPService(standard)},
		"a deleted Service with the finalizer of a former controller":           {config.ClassesBoth, deleting(loadBalancer("", standard)), deleting(loadBalancer("", standard))},
		"a Service of type ClusterIP with the finalizer of a former controller": {config.ClassesBoth, clusterIPService(standard), clusterIPService(standard)},
		"no finalizer of a Service of another controller":                       {config.ClassesClass, deleting(clusterIPService(standard)), deleting(clusterIPService())},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.real.DeepCopy()
			got, visible := visibility{c.classes}.of(c.real)
			if visible != (c.want != nil) {
				t.Fatalf("visible: %t", visible)
			}
			if diff := cmp.Diff(before, c.real); diff != "" {
				t.Errorf("the cached object was changed (-before +after):\n%s", diff)
			}
			if c.want == nil {
				return
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the shown Service differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMustEnsureReportsChangesThatMatter(t *testing.T) {
	with := func(change func(*v1.Service)) *v1.Service {
		svc := loadBalancer("", standard)
		svc.Spec.ClusterIPs = []string{"10.96.0.7"}
		change(svc)
		return svc
	}
	for name, c := range map[string]struct {
		change func(*v1.Service)
		want   bool
	}{
		"no change":           {func(*v1.Service) {}, false},
		"a label":             {func(svc *v1.Service) { svc.Labels = map[string]string{"a": "b"} }, false},
		"a cluster IP":        {func(svc *v1.Service) { svc.Spec.ClusterIPs = []string{"10.96.0.8"} }, true},
		"a selector":          {func(svc *v1.Service) { svc.Spec.Selector = map[string]string{"a": "b"} }, true},
		"a removed finalizer": {func(svc *v1.Service) { svc.Finalizers = nil }, true},
		"a deletion, which the controller detects itself": {func(svc *v1.Service) { deleting(svc); svc.Spec.ClusterIPs = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustEnsure(with(func(*v1.Service) {}), with(c.change)); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestAddFinalizerPatchesBothFinalizers(t *testing.T) {
	for name, c := range map[string]struct {
		patch, want string
		removes     bool
	}{
		"adding the standard finalizer adds both": {
			`{"metadata":{"$setElementOrder/finalizers":["x","` + standard + `"],"finalizers":["` + standard + `"]}}`,
			`{"metadata":{"$setElementOrder/finalizers":["x","` + Finalizer + `","` + standard + `"],"finalizers":["` + Finalizer + `","` + standard + `"]}}`,
			false,
		},
		"removing the standard finalizer removes both": {
			`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + standard + `"]}}`,
			`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + Finalizer + `","` + standard + `"]}}`,
			true,
		},
		"removing the last shown finalizer keeps hidden ones": {
			`{"metadata":{"finalizers":null}}`,
			`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + Finalizer + `","` + standard + `"]}}`,
			true,
		},
		"a status is not changed": {
			`{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1","ipMode":"VIP"}]}}}`,
			`{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1","ipMode":"VIP"}]}}}`,
			false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, removes, err := addFinalizer([]byte(c.patch))
			if diff := cmp.Diff(c.want, string(got)); err != nil || diff != "" {
				t.Errorf("error %v, patch differs (-want +got):\n%s", err, diff)
			}
			if removes != c.removes {
				t.Errorf("removes finalizers: %t", removes)
			}
		})
	}
	if _, _, err := addFinalizer([]byte("{")); err == nil {
		t.Error("an invalid patch is accepted")
	}
}

// With any finalizers and in any state: the controller never sees a Service of another class as a
// load balancer.
func TestServicesOfOtherClassesAreNeverShownAsLoadBalancers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := loadBalancer(rapid.SampledFrom([]string{"", other, config.LoadBalancerClass}).Draw(t, "class"),
			rapid.SliceOfDistinct(rapid.SampledFrom([]string{"x", standard, Finalizer}), rapid.ID[string]).Draw(t, "finalizers")...)
		if rapid.Bool().Draw(t, "deleting") {
			deleting(svc)
		}
		classes := rapid.SampledFrom([]config.Classes{config.ClassesBoth, config.ClassesClass, config.ClassesNone}).Draw(t, "classes")
		shown, visible := visibility{classes}.of(svc)
		if visible && shown.Spec.Type == v1.ServiceTypeLoadBalancer != classes.Serves(svc.Spec.LoadBalancerClass) {
			t.Fatalf("Service %v is shown as %v", svc, shown)
		}
	})
}
