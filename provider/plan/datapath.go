package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Environment is what decides whether kube-proxy can serve Services.
type Environment struct {
	// KubeProxy is the mode of the nodes' kube-proxies; empty if it is not known.
	KubeProxy config.KubeProxyMode
	// UnknownReason says why the mode is not known.
	UnknownReason string
	// Translated reports that a cloud translates the nodes' external IPv4 addresses, so that
	// packets arrive with another destination than the published one.
	Translated bool
	// IPMode is what the cloud config sets; empty if nothing.
	IPMode v1.LoadBalancerIPMode
}

// DirectUnavailableError is the error for a Service that kube-proxy cannot serve. It names the
// cause and what to do.
type DirectUnavailableError struct {
	Message string
	// MustStop reports that kube-proxy must also stop serving what it serves of the Service.
	MustStop bool
}

// Error names the cause and what to do.
func (e *DirectUnavailableError) Error() string {
	return "it cannot be served by datapath direct: " + e.Message
}

// WantsDirect reports whether a Service is to be served by kube-proxy, if that is possible.
func WantsDirect(svc *v1.Service, o options.Options) bool {
	local := svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
	return o.Datapath == options.DatapathDirect || o.Datapath == options.DatapathAuto && local
}

// CheckDirect returns what prevents kube-proxy from serving a Service, or nil. conflicts
// are the ports that the Service does not get.
func (e Environment) CheckDirect(svc *v1.Service, o options.Options, conflicts []Conflict) *DirectUnavailableError {
	if o.MaxConnectionsPerClient > 0 {
		return &DirectUnavailableError{fmt.Sprintf("kube-proxy does not limit the connections of a client: remove the annotation %s, or use datapath proxy", options.MaxConnectionsPerClient), true}
	}
	switch e.KubeProxy {
	case config.KubeProxyIPTables, config.KubeProxyNFTables:
	case config.KubeProxyIPVS:
		return &DirectUnavailableError{"kube-proxy runs in mode ipvs, in which it would bind the nodes' own addresses on every node and so cut nodes off: use datapath proxy, or kube-proxy in mode nftables or iptables", true}
	case config.KubeProxyNone:
		return &DirectUnavailableError{"there is no kube-proxy (loadBalancer.kubeProxyMode in the cloud config is none): use datapath proxy", false}
	default:
		return &DirectUnavailableError{fmt.Sprintf("the mode of kube-proxy is not known, as %s: set loadBalancer.kubeProxyMode in the cloud config", e.UnknownReason), false}
	}
	if e.Translated {
		// A mirror has endpoints of its own, which only a selector gives it.
		if len(svc.Spec.Selector) == 0 {
			return &DirectUnavailableError{"the Service has no selector, and so its mirror would have no endpoints: use datapath proxy", false}
		}
		return nil
	}
	// Without a mirror, kube-proxy serves all ports in the Service's own spec, to all clients that
	// the spec allows.
	_, where := options.WrittenRanges(svc)
	ranges, _ := options.SourceRanges(svc)
	unrestricted := unrestrictedFamilies(svc, ranges)
	switch {
	case e.IPMode == v1.LoadBalancerIPModeProxy:
		return &DirectUnavailableError{"loadBalancer.ipMode in the cloud config is Proxy, with which kube-proxy does not serve it: remove that line, or use datapath proxy", false}
	case where != options.InSpec:
		return &DirectUnavailableError{fmt.Sprintf("kube-proxy does not read the source ranges in %s and would allow all clients: write them into %s, or use datapath proxy", where, options.InSpec), true}
	case len(unrestricted) > 0:
		return &DirectUnavailableError{fmt.Sprintf("kube-proxy would allow all clients over %s, of which %s has no range: add one, or use datapath proxy", unrestricted[0], options.InSpec), true}
	case len(conflicts) > 0:
		return &DirectUnavailableError{fmt.Sprintf("kube-proxy would serve all ports of the Service, but it does not get all of them (%s); or use datapath proxy", conflicts[0].Message), true}
	}
	return nil
}

// unrestrictedFamilies returns the IP families of a Service for which none of its ranges is. kube-proxy
// sorts ranges by family and takes an empty list for no restriction.
func unrestrictedFamilies(svc *v1.Service, ranges []netip.Prefix) []v1.IPFamily {
	var families []v1.IPFamily
	for _, family := range svc.Spec.IPFamilies {
		if !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Addr().Is4() == (family == v1.IPv4Protocol) }) {
			families = append(families, family)
		}
	}
	return families
}
