package provider

import (
	"context"
	"sync"
	"time"

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
	// generation is another number after each change of what a snapshot holds, and services after each
	// change of a Service.
	generation, services func() uint64
	nodes                corelisters.NodeLister
	// claimants returns the Services that want a load balancer from us, and all returns all.
	claimants func() []*v1.Service
	all       corelisters.ServiceLister
	failures  failureDetector
	addresses *nodeaddress.Reader
	policy    policy.Policy
	// environment decides whether kube-proxy can serve Services.
	environment func() plan.Environment

	mu      sync.Mutex
	current *snapshot.Cluster
	taken   uint64
	// indexed are the Services of the current snapshot, and admit is what they were admitted by.
	indexed *snapshot.Services
	admit   snapshot.Admit
	// servicesTaken and environmentTaken are those for which they are right.
	servicesTaken    uint64
	environmentTaken plan.Environment
}

// get returns the current snapshot, and what decides whether its Services are admitted. Nodes have
// their annotated addresses and are shown as not Ready if they have failed.
func (s *snapshots) get(ctx context.Context) (*snapshot.Cluster, snapshot.Admit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.generation(); s.current == nil || now != s.taken {
		began := time.Now()
		nodes, _ := s.nodes.List(everything) // From the cache: never an error.
		s.indexServices()
		s.current, s.taken = s.indexed.OnSince(s.current, s.shown(ctx, nodes)), now
		s.current.Taken = began
	}
	return s.current, s.admit
}

// shown returns nodes as a snapshot has them.
func (s *snapshots) shown(ctx context.Context, nodes []*v1.Node) []*v1.Node {
	return s.addresses.Apply(ctx, s.failures.OverlayNotReady(nodes))
}

// indexServices indexes the Services again if one has changed, or kube-proxy can serve others.
func (s *snapshots) indexServices() {
	now, environment := s.services(), s.environment()
	if s.indexed != nil && now == s.servicesTaken && environment == s.environmentTaken {
		return
	}
	claimants := s.claimants()
	all, _ := s.all.List(everything) // From the cache: never an error.
	admitted := s.policy.Among(func() []*v1.Service { return claimants })
	s.admit = admitted
	s.indexed = snapshot.IndexServices(claimants, whereServable(admitted, func() plan.Environment { return environment }), all)
	s.servicesTaken, s.environmentTaken = now, environment
}
