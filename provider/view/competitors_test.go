package view

import (
	"testing"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

func TestCountChange(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1.Service)
		counts bool
	}{
		"nothing":                         {func(*v1.Service) {}, false},
		"the status":                      {func(svc *v1.Service) { svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "203.0.113.1"}} }, false},
		"a label":                         {func(svc *v1.Service) { svc.Labels = map[string]string{"a": "b"} }, false},
		"a port":                          {func(svc *v1.Service) { svc.Spec.Ports = []v1.ServicePort{{Port: 81}} }, true},
		"the class":                       {func(svc *v1.Service) { svc.Spec.LoadBalancerClass = new(string) }, true},
		"an annotation":                   {func(svc *v1.Service) { svc.Annotations = map[string]string{"a": "b"} }, true},
		"its deletion":                    {func(svc *v1.Service) { svc.DeletionTimestamp = &metav1.Time{} }, true},
		"a Service that is created again": {func(svc *v1.Service) { svc.UID = "other" }, true},
		"the status of another controller's Service": {func(svc *v1.Service) {
			svc.Spec.LoadBalancerClass = ptr.To("example.com/other")
			svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "203.0.113.1"}}
		}, true},
	} {
		s, old := &Services{visibility: visibility{config.ClassesBoth}}, &v1.Service{ObjectMeta: metav1.ObjectMeta{UID: "web"}, Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, Ports: []v1.ServicePort{{Port: 80}}}}
		changed := old.DeepCopy()
		c.change(changed)
		if counted := s.countChange(old, changed); counted != c.counts || (s.Generation() > 0) != c.counts {
			t.Errorf("%s: counted %t, generation %d", name, counted, s.Generation())
		}
	}
}
