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

func balanced(class string, finalizers ...string) *v1.Service {
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

func plain(finalizers ...string) *v1.Service {
	svc := balanced("", finalizers...)
	svc.Spec.Type, svc.Status = v1.ServiceTypeClusterIP, v1.ServiceStatus{}
	return svc
}

func deleting(svc *v1.Service) *v1.Service {
	svc.DeletionTimestamp = &metav1.Time{}
	return svc
}

func TestTheControllerSees(t *testing.T) {
	for name, c := range map[string]struct {
		classes config.Classes
		real    *v1.Service
		want    *v1.Service // Nil: nothing.
	}{
		"a Service without class":                           {config.ClassesBoth, balanced(""), balanced("")},
		"a Service of our class as one without":             {config.ClassesClass, balanced(config.LoadBalancerClass, "x"), balanced("", "x")},
		"our finalizer as the standard one":                 {config.ClassesBoth, balanced("", Finalizer), balanced("", standard)},
		"both finalizers as one":                            {config.ClassesBoth, balanced("", "x", standard, Finalizer), balanced("", "x", standard)},
		"no finalizer while ours is not there":              {config.ClassesBoth, balanced("", standard), balanced("")},
		"nothing of another class":                          {config.ClassesBoth, balanced(other, standard), nil},
		"nothing without class if we serve only ours":       {config.ClassesClass, balanced("", standard), nil},
		"nothing of our class if we serve only without":     {config.ClassesNone, balanced(config.LoadBalancerClass), nil},
		"one that left us as one that wants no balancer":    {config.ClassesBoth, balanced(other, Finalizer, standard), plain(standard)},
		"one that left the type with its finalizer":         {config.ClassesClass, plain(Finalizer), plain(standard)},
		"a deleting one that a former controller finalized": {config.ClassesBoth, deleting(balanced("", standard)), deleting(balanced("", standard))},
		"one that left the type under a former controller":  {config.ClassesBoth, plain(standard), plain(standard)},
		"no finalizer of another controller's Services":     {config.ClassesClass, deleting(plain(standard)), deleting(plain())},
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
				t.Errorf("it sees (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMustEnsure(t *testing.T) {
	with := func(change func(*v1.Service)) *v1.Service {
		svc := balanced("", standard)
		svc.Spec.ClusterIPs = []string{"10.96.0.7"}
		change(svc)
		return svc
	}
	for name, c := range map[string]struct {
		change func(*v1.Service)
		want   bool
	}{
		"nothing":                    {func(*v1.Service) {}, false},
		"a label":                    {func(svc *v1.Service) { svc.Labels = map[string]string{"a": "b"} }, false},
		"a cluster IP":               {func(svc *v1.Service) { svc.Spec.ClusterIPs = []string{"10.96.0.8"} }, true},
		"a selector":                 {func(svc *v1.Service) { svc.Spec.Selector = map[string]string{"a": "b"} }, true},
		"a finalizer that is gone":   {func(svc *v1.Service) { svc.Finalizers = nil }, true},
		"a deletion, seen by itself": {func(svc *v1.Service) { deleting(svc); svc.Spec.ClusterIPs = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustEnsure(with(func(*v1.Service) {}), with(c.change)); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestAddFinalizer(t *testing.T) {
	for name, c := range map[string]struct {
		patch, want string
		removes     bool
	}{
		"adding the finalizer adds both": {
			`{"metadata":{"$setElementOrder/finalizers":["x","` + standard + `"],"finalizers":["` + standard + `"]}}`,
			`{"metadata":{"$setElementOrder/finalizers":["x","` + Finalizer + `","` + standard + `"],"finalizers":["` + Finalizer + `","` + standard + `"]}}`,
			false,
		},
		"removing it removes both": {
			`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + standard + `"]}}`,
			`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + Finalizer + `","` + standard + `"]}}`,
			true,
		},
		"removing the last one does not remove those that were not shown": {
			`{"metadata":{"finalizers":null}}`,
			`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + Finalizer + `","` + standard + `"]}}`,
			true,
		},
		"a status is passed on": {
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
		t.Error("half a patch is accepted")
	}
}

// Whatever finalizers a Service of another bears beside ours, and in whatever
// state it is: the controller is never shown a Service to serve that is not ours.
func TestServicesOfOthersAreNeverShownToBeServed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := balanced(rapid.SampledFrom([]string{"", other, config.LoadBalancerClass}).Draw(t, "class"),
			rapid.SliceOfDistinct(rapid.SampledFrom([]string{"x", standard, Finalizer}), rapid.ID[string]).Draw(t, "finalizers")...)
		if rapid.Bool().Draw(t, "deleting") {
			deleting(svc)
		}
		classes := rapid.SampledFrom([]config.Classes{config.ClassesBoth, config.ClassesClass, config.ClassesNone}).Draw(t, "classes")
		shown, visible := visibility{classes}.of(svc)
		if visible && shown.Spec.Type == v1.ServiceTypeLoadBalancer != classes.Serves(svc.Spec.LoadBalancerClass) {
			t.Fatalf("%v is shown as %v", svc, shown)
		}
	})
}
