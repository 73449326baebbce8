package provider

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/firewall/firewalltest"
	"github.com/hostport-ccm/hostport-ccm/firewall/operations"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/direct/directtest"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/policy"
	"github.com/hostport-ccm/hostport-ccm/provider/proxies/proxiestest"
	"github.com/hostport-ccm/hostport-ccm/provider/view/viewtest"
)

// steps is a load balancer on fakes that records the calls which change something.
type steps struct {
	*loadBalancer
	calls []string
	// failing is the call that fails.
	failing string
}

func newSteps(t *testing.T, nodes ...*v1.Node) *steps {
	t.Helper()
	s := &steps{}
	called := func(call string) error {
		s.calls = append(s.calls, call)
		if call == s.failing {
			return errors.New("failed")
		}
		return nil
	}
	fw := &firewalltest.Fake{}
	fw.FailWith(func(method string, _ firewall.Owner) error { return called("firewall." + method) })
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, node := range nodes {
		if err := indexer.Add(node); err != nil {
			t.Fatal(err)
		}
	}
	queue, defaults := &viewtest.Queue{}, options.Default()
	s.loadBalancer = &loadBalancer{
		settings: plan.Settings{ClusterID: "tests", Namespace: system},
		policy:   policy.Policy{Defaults: defaults},
		kube:     fake.NewClientset(),
		services: queue,
		foreign:  viewtest.Foreign{},
		proxies:  &proxiestest.Manager{Called: called},
		direct:   &directtest.Manager{Called: called, Env: plan.Environment{KubeProxy: config.KubeProxyIPTables, Translated: true}},
		firewall: operations.New(fw, operations.MaxParallel, queue.Enqueue),
		events:   events.NewRecorder(record.NewFakeRecorder(100), nil),
		snapshots: snapshots{
			generation: func() uint64 { return 0 }, services: func() uint64 { return 0 }, claimants: queue.Wanted, nodes: corelisters.NewNodeLister(indexer),
			all:      corelisters.NewServiceLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})),
			failures: noFailureDetection, policy: policy.Policy{Defaults: defaults},
		},
		unreachable: func(*v1.Service) map[string][]v1.IPFamily { return nil },
	}
	s.snapshots.environment = s.direct.Environment
	return s
}

// ensure calls EnsureLoadBalancer as the service controller does, and returns the calls.
func (s *steps) ensure(t *testing.T, svc *v1.Service) (calls []string, err error) {
	t.Helper()
	s.calls = nil
	status, err := s.EnsureLoadBalancer(t.Context(), "", svc, nil)
	if err == nil {
		svc.Status.LoadBalancer = *status
	}
	return s.calls, err
}

func published(svc *v1.Service) (ips []string) {
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		ips = append(ips, entry.IP)
	}
	return ips
}

func TestEnsureOpensTheFirewallAfterTheProxies(t *testing.T) {
	s, svc := newSteps(t, translatedNode(1), translatedNode(2)), service("web")
	calls, err := s.ensure(t, svc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"proxies.Ensure", "firewall.Ensure", "direct.Advance"}, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"203.0.113.1", "203.0.113.2"}, published(svc)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if calls, err := s.ensure(t, svc); err != nil || slices.Contains(calls, "firewall.Ensure") {
		t.Errorf("with nothing changed, the firewall is asked again: %v, %v", calls, err)
	}
}

func TestAFailedStepOfEnsurePreventsTheNext(t *testing.T) {
	for failing, want := range map[string][]string{
		"proxies.Ensure": {"proxies.Ensure"},
		"direct.Advance": {"proxies.Ensure", "firewall.Ensure", "direct.Advance"},
	} {
		s, svc := newSteps(t, translatedNode(1)), service("web")
		s.failing = failing
		calls, err := s.ensure(t, svc)
		if diff := cmp.Diff(want, calls); err == nil || diff != "" {
			t.Errorf("%s fails: error %v, calls (-want +got):\n%s", failing, err, diff)
		}
	}
}

func TestAFailingFirewallIsNoErrorAndPublishesNothingNew(t *testing.T) {
	s, svc := newSteps(t, translatedNode(1)), service("web")
	s.failing = "firewall.Ensure"
	if _, err := s.ensure(t, svc); err != nil || len(published(svc)) > 0 {
		t.Errorf("error %v, published %v", err, published(svc))
	}
}

func TestProxiesAreDeletedAfterTheCutoverToDirect(t *testing.T) {
	s, svc := newSteps(t, translatedNode(1), translatedNode(2)), service("web")
	if _, err := s.ensure(t, svc); err != nil {
		t.Fatal(err)
	}
	withDatapath(options.DatapathDirect)(svc)
	for i, want := range [][]string{{"direct.Advance"}, {"direct.Advance", "proxies.Delete"}, {"direct.Advance"}} {
		calls, err := s.ensure(t, svc)
		if diff := cmp.Diff(want, calls); err != nil || diff != "" {
			t.Errorf("call %d: error %v, calls (-want +got):\n%s", i+1, err, diff)
		}
		if diff := cmp.Diff([]string{"203.0.113.1", "203.0.113.2"}, published(svc)); diff != "" {
			t.Errorf("call %d: addresses (-want +got):\n%s", i+1, diff)
		}
	}
}

func TestDeletionClosesTheFirewallFirst(t *testing.T) {
	for failing, want := range map[string][]string{
		"":                    {"firewall.Delete", "direct.DeleteMirror", "proxies.Delete"},
		"firewall.Delete":     {"firewall.Delete"},
		"direct.DeleteMirror": {"firewall.Delete", "direct.DeleteMirror"},
	} {
		s, svc := newSteps(t, translatedNode(1)), service("web")
		if _, err := s.ensure(t, svc); err != nil {
			t.Fatal(err)
		}
		s.calls, s.failing = nil, failing
		err := s.EnsureLoadBalancerDeleted(t.Context(), "", svc)
		if diff := cmp.Diff(want, s.calls); (err != nil) != (failing != "") || diff != "" {
			t.Errorf("%q fails: error %v, calls (-want +got):\n%s", failing, err, diff)
		}
	}
}
