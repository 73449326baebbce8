package plan

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestARolloutToleratesUnavailableNodes(t *testing.T) {
	rolling := func(ds *appsv1.DaemonSet) {
		ds.Status = appsv1.DaemonSetStatus{ObservedGeneration: ds.Generation, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 1}
	}
	notSeen := func(ds *appsv1.DaemonSet) { ds.Generation++ }
	unavailable := func(without int) func(*appsv1.DaemonSet) {
		return func(ds *appsv1.DaemonSet) { ds.Spec.UpdateStrategy = oneByOne(without) }
	}
	for name, c := range map[string]struct {
		have    []func(*appsv1.DaemonSet)
		port    int32 // Added to the ports of the Service.
		without int
		// want is the written MaxUnavailable, or 0 if nothing is written.
		want int
	}{
		"a node is unavailable without a rollout":                {without: 1},
		"a rollout starts while a node is unavailable":           {port: 443, without: 1, want: 2},
		"a rollout starts after one with more unavailable nodes": {have: []func(*appsv1.DaemonSet){unavailable(2)}, port: 443, want: 1},
		"a node becomes unavailable during a rollout":            {have: []func(*appsv1.DaemonSet){rolling}, without: 1, want: 2},
		"a node becomes available during a rollout":              {have: []func(*appsv1.DaemonSet){rolling, unavailable(1)}, want: 1},
		"the unavailable nodes do not change during a rollout":   {have: []func(*appsv1.DaemonSet){rolling, unavailable(1)}, without: 1},
		"the DaemonSet controller has not observed the rollout":  {have: []func(*appsv1.DaemonSet){notSeen}, without: 1, want: 2},
		"a node is unavailable after a rollout":                  {have: []func(*appsv1.DaemonSet){unavailable(1)}, without: 1, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			have := defaulted(t, mustProxies(t, service(), options.Default())).DaemonSet
			have.Status.ObservedGeneration = have.Generation
			for _, change := range c.have {
				change(have)
			}
			p := mustProxies(t, service(func(svc *v1.Service) {
				if c.port > 0 {
					svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Port: c.port})
				}
			}), options.Default())
			p.TolerateUnavailable(c.without)
			updated, differences := UpdateDaemonSet(have, p.DaemonSet)
			writes := len(differences) > 0
			if writes != (c.want > 0) {
				t.Fatalf("writes: %t", writes)
			}
			if !writes {
				return
			}
			if got := updated.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue(); got != c.want {
				t.Errorf("got maxUnavailable %d, want %d", got, c.want)
			}
			if _, again := UpdateDaemonSet(updated, p.DaemonSet); len(again) > 0 && c.port == 0 {
				t.Error("the result would be written again")
			}
		})
	}
}

func TestIsRollingOutIgnoresUnavailableNodes(t *testing.T) {
	done := appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3}
	for name, c := range map[string]struct {
		change  func(*appsv1.DaemonSetStatus)
		without int
		want    bool
	}{
		"all pods are updated and ready":                        {func(*appsv1.DaemonSetStatus) {}, 0, false},
		"the spec was just written":                             {func(s *appsv1.DaemonSetStatus) { s.ObservedGeneration = 1 }, 0, true},
		"one pod is outdated":                                   {func(s *appsv1.DaemonSetStatus) { s.UpdatedNumberScheduled = 2 }, 0, true},
		"one pod is outdated, on an unavailable node":           {func(s *appsv1.DaemonSetStatus) { s.UpdatedNumberScheduled, s.NumberUnavailable = 2, 1 }, 1, false},
		"one more pod is outdated than on the unavailable node": {func(s *appsv1.DaemonSetStatus) { s.UpdatedNumberScheduled, s.NumberUnavailable = 1, 1 }, 1, true},
		"one updated pod is not available yet":                  {func(s *appsv1.DaemonSetStatus) { s.NumberUnavailable = 1 }, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: done}
			c.change(&ds.Status)
			if got := IsRollingOut(ds, c.without); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestOnlyChangesOtherThanPortsWaitForARollout(t *testing.T) {
	have := mustProxies(t, service(), options.Default()).DaemonSet
	image := have.DeepCopy()
	image.Spec.Template.Spec.Containers[0].Image = "proxy:2"
	ports := mustProxies(t, service(func(svc *v1.Service) { svc.Spec.Ports = svc.Spec.Ports[1:] }), options.Default()).DaemonSet
	for name, c := range map[string]struct {
		want  *appsv1.DaemonSet
		waits bool
	}{
		"no change": {have, false}, "a new image": {image, true}, "a removed port": {ports, false},
	} {
		if got := CanWait(have, c.want); got != c.waits {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

func TestMissingCountsPodsThatTheStatusLacks(t *testing.T) {
	ds := &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 3, CurrentNumberScheduled: 2}}
	if got := Missing(ds); got != 1 {
		t.Errorf("got %d", got)
	}
	if ds.Generation++; Missing(ds) != 0 {
		t.Error("a status of an earlier spec counts")
	}
}
