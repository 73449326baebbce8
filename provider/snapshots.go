package provider

import (
	"context"
	"sync"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/policy"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// everything selects all objects.
var everything = labels.Everything()

// whereServable returns a function that admits the Services which admit admits and, if they require
// datapath direct, which kube-proxy can serve.
func whereServable(admit snapshot.Admit, environment func() plan.Environment) snapshot.Admit {
	return func(svc *v1.Service) (options.Options, error) {
		o, err := admit(svc)
		if err == nil && o.Datapath == options.DatapathDirect {
			if unavailable := environment().CheckDirect(svc, o, nil); unavailable != nil {
				err = unavailable
			}
		}
		return o, err
	}
}

// snapshots takes a snapshot of the cluster when it is needed and something has changed since the
// last one.
type snapshots struct {
	// generation is another number after each change of what a snapshot holds.
	generation func() uint64
	nodes      corelisters.NodeLister
	// claimants returns the Services that want a load balancer from us.
	claimants func() []*v1.Service
	services  corelisters.ServiceLister
	failures  failureDetector
	addresses *nodeaddress.Reader
	policy    policy.Policy
	// environment decides whether kube-proxy can serve Services.
	environment func() plan.Environment

	mu      sync.Mutex
	current *snapshot.Cluster
	taken   uint64
}

// get returns the current snapshot. Nodes have their annotated addresses and are shown as not Ready
// if they have failed.
func (s *snapshots) get(ctx context.Context) *snapshot.Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.generation(); s.current == nil || now != s.taken {
		nodes, _ := s.nodes.List(everything) // From the cache: never an error.
		services, _ := s.services.List(everything)
		nodes = s.addresses.Apply(ctx, s.failures.OverlayNotReady(nodes))
		admit := whereServable(s.policy.Among(s.claimants), s.environment)
		s.current, s.taken = snapshot.New(nodes, s.claimants(), admit, services), now
	}
	return s.current
}
