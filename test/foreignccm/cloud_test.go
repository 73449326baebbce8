package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestBalancersAreCreatedAndDeleted(t *testing.T) {
	f, balancers := newForeign(t)
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	wantExists := func(want bool) {
		t.Helper()
		if _, exists, err := f.GetLoadBalancer(t.Context(), "", svc); exists != want || err != nil {
			t.Errorf("exists: %t (%v)", exists, err)
		}
	}
	if wantExists(false); balancers() != "[]" {
		t.Errorf("balancers in the file: %s", balancers())
	}
	first, err := f.EnsureLoadBalancer(t.Context(), "", svc, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.EnsureLoadBalancer(t.Context(), "", svc, nil); err != nil || again.Ingress[0].IP != first.Ingress[0].IP {
		t.Errorf("the address changed from %v to %v (%v)", first, again, err)
	}
	if wantExists(true); balancers() != `["default/web"]` {
		t.Errorf("balancers in the file: %s", balancers())
	}
	if err := f.EnsureLoadBalancerDeleted(t.Context(), "", svc); err != nil {
		t.Fatal(err)
	}
	if wantExists(false); balancers() != "[]" {
		t.Errorf("balancers in the file: %s", balancers())
	}
}

func TestOnlyConfiguredMachinesExist(t *testing.T) {
	f, _ := newForeign(t)
	for name, want := range map[string]bool{"n1": true, "n2": false} {
		node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if exists, err := f.InstanceExists(t.Context(), node); exists != want || err != nil {
			t.Errorf("%s exists: %t (%v)", name, exists, err)
		}
		if meta, err := f.InstanceMetadata(t.Context(), node); (err == nil) != want || want && meta.ProviderID != "x://n1" {
			t.Errorf("%s: %v (%v)", name, meta, err)
		}
	}
}

func newForeign(t *testing.T) (f *foreign, balancers func() string) {
	dir := t.TempDir()
	config, file := filepath.Join(dir, "config"), filepath.Join(dir, "balancers")
	data := fmt.Sprintf(`{"machines": [{"name": "n1", "providerID": "x://n1", "externalIP": "203.0.113.1"}], "balancers": %q}`, file)
	if err := os.WriteFile(config, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := load(config)
	if err != nil {
		t.Fatal(err)
	}
	return f, func() string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
}
