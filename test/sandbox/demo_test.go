package main

import (
	"testing"

	"k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDemoServiceIsServedByHostportCCMInEveryProfile(t *testing.T) {
	ours := config.LoadBalancerClass
	for profile, want := range map[cluster.Profile]*string{cluster.GCE: nil, cluster.BareMetal: nil, cluster.GKE: &ours} {
		var svc v1.Service
		if err := yaml.UnmarshalStrict([]byte(serviceFor(profile)), &svc); err != nil {
			t.Fatal(err)
		}
		got := svc.Spec.LoadBalancerClass
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("profile %s: class %v, want %v", profile, got, want)
		}
	}
}
