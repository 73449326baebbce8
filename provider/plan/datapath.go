package plan

import (
	"fmt"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Cluster is what decides whether kube-proxy can serve Services directly.
type Cluster struct {
	// KubeProxy is how the nodes' kube-proxies run; empty if unknown.
	KubeProxy config.KubeProxyMode
	// Unknown says why it is.
	Unknown string
	// Translated says that packets carry another address than the published
	// one, so that kube-proxy has to be told by a mirror Service.
	Translated bool
	// IPMode is what the cloud config prescribes; empty if nothing.
	IPMode v1.LoadBalancerIPMode
}

// Obstacle is why a Service cannot be served directly. It names the cause and
// what to do.
type Obstacle struct {
	Message string
	// Unsafe says that even what is served directly already has to end at once.
	Unsafe bool
}

func (o *Obstacle) Error() string { return "it cannot be served by datapath direct: " + o.Message }

// WantsDirect says whether a Service is to be served directly if it can be.
func WantsDirect(svc *v1.Service, o options.Options) bool {
	local := svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
	return o.Datapath == options.DatapathDirect || o.Datapath == options.DatapathAuto && local
}

// Obstacle returns what keeps a Service from being served directly, or nil.
// conflicts are the ports that it does not get.
func (c Cluster) Obstacle(svc *v1.Service, conflicts []Conflict) *Obstacle {
	switch c.KubeProxy {
	case config.KubeProxyIPTables, config.KubeProxyNFTables:
	case config.KubeProxyIPVS:
		return &Obstacle{"kube-proxy runs in mode ipvs, in which it would bind the nodes' own addresses on every node and so cut nodes off: use datapath proxy, or kube-proxy in mode nftables or iptables", true}
	case config.KubeProxyNone:
		return &Obstacle{"there is no kube-proxy (loadBalancer.kubeProxyMode in the cloud config is none): use datapath proxy", false}
	default:
		return &Obstacle{fmt.Sprintf("the mode of kube-proxy is not known, as %s: set loadBalancer.kubeProxyMode in the cloud config", c.Unknown), false}
	}
	if c.Translated {
		return mirrorObstacle(svc)
	}
	return c.ownObstacle(svc, conflicts)
}

// mirrorObstacle: without a selector nobody writes the mirror's endpoints.
func mirrorObstacle(svc *v1.Service) *Obstacle {
	if len(svc.Spec.Selector) > 0 {
		return nil
	}
	return &Obstacle{"the Service has no selector, and so its mirror would have no endpoints: use datapath proxy", false}
}

// ownObstacle: kube-proxy serves all ports that the Service's own spec names, to
// the clients that the spec names.
func (c Cluster) ownObstacle(svc *v1.Service, conflicts []Conflict) *Obstacle {
	if c.IPMode == v1.LoadBalancerIPModeProxy {
		return &Obstacle{"loadBalancer.ipMode in the cloud config is Proxy, with which kube-proxy does not serve it: remove that line, or use datapath proxy", false}
	}
	if _, where := writtenRanges(svc); where != inSpec {
		return &Obstacle{fmt.Sprintf("kube-proxy does not read the source ranges in %s and would let in everybody: write them into %s, or use datapath proxy", where, inSpec), true}
	}
	if out := shutOut(svc); len(out) > 0 {
		return &Obstacle{fmt.Sprintf("kube-proxy would let in everybody over %s, of which %s has no range: add one, or use datapath proxy", out[0], inSpec), true}
	}
	if len(conflicts) == 0 {
		return nil
	}
	return &Obstacle{fmt.Sprintf("kube-proxy would serve all of its ports, and not all are its own (%s); or use datapath proxy", conflicts[0].Message), true}
}
