package provider

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

// Covers each class with each config. A Service is served completely or not touched at all.
func TestOnlyServicesOfTheConfiguredClassesAreServed(t *testing.T) {
	kinds := map[string]func(*v1.Service){
		"plain":   func(*v1.Service) {},
		"ours":    ofClass(config.LoadBalancerClass),
		"foreign": ofClass("example.com/other"),
	}
	for classes, served := range map[config.Classes][]string{
		config.ClassesBoth:  {"plain", "ours"},
		config.ClassesClass: {"ours"},
		config.ClassesNone:  {"plain"},
	} {
		t.Run(string(classes), func(t *testing.T) {
			c := twoNodes(t)
			c.config.LoadBalancer.Classes = classes
			c.start()
			others := map[string]*v1.Service{}
			for name, kind := range kinds {
				others[name] = service(name, kind)
			}
			for _, name := range served {
				delete(others, name)
			}
			for name, svc := range others {
				c.create(svc)
				others[name] = c.service(name)
			}
			for i, name := range served {
				c.serve(service(name, kinds[name], func(svc *v1.Service) { svc.Spec.Ports[0].Port += int32(i) }))
			}
			c.wantUntouched(others)
			for _, name := range served {
				c.delete(name)
				c.endProxies(name)
				c.eventually(name+" is deleted", func() bool { return c.isGone(name) })
				c.wantNoResources(name)
			}
			c.wantUntouched(others)
		})
	}
}

// wantUntouched fails if Services changed, or have events or resources of ours.
func (c *cluster) wantUntouched(before map[string]*v1.Service) {
	c.Helper()
	for name, svc := range before {
		if diff := cmp.Diff(svc, c.service(name)); diff != "" {
			c.Errorf("Service %s changed (-before +after):\n%s", name, diff)
		}
		if c.hasEvent(fmt.Sprintf(" %s:", name)) {
			c.Errorf("Service %s has events: %v", name, c.events())
		}
		c.wantNoResources(name)
	}
}
