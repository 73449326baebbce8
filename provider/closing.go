package provider

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// closeLostPorts makes the firewall stop allowing the ports that the Service loses, before anything
// of ours stops serving them: without that, whatever listens on the nodes could be reached. It
// reports whether that is done. If not, the plan keeps the ports that are served, and no others.
// Only a managed firewall is waited for.
func (r *reconciliation) closeLostPorts(ctx context.Context) (closed bool) {
	served := r.servedPorts()
	lost := served.Difference(sets.New(snapshot.PortsOf(r.plan.Service)...))
	if r.options.Firewall != firewall.Managed || !r.firewall.MayAllow(r.plan.Firewall.Owner, firewallPorts(lost)) {
		return true
	}
	// Ports that the Service gains are allowed later, after its proxies have them.
	if r.ensureFirewall(ctx, limitedTo(r.plan.Firewall, served)) {
		return true
	}
	r.plan.ServeOnly(served)
	return false
}

// portsToAllow returns what the firewall has to allow: the ports of the plan, but while proxies with
// these cannot be created, only those that are served. Whatever else listens on a node would be open.
func (r *reconciliation) portsToAllow() firewall.Spec {
	if r.notCreated {
		return limitedTo(r.plan.Firewall, r.servedPorts())
	}
	return r.plan.Firewall
}

func limitedTo(spec firewall.Spec, ports sets.Set[snapshot.Port]) firewall.Spec {
	keeps := sets.New(firewallPorts(ports)...)
	spec.Ports = slices.DeleteFunc(slices.Clone(spec.Ports), func(p firewall.Port) bool { return !keeps.Has(p) })
	return spec
}

// servedPorts returns the ports that proxies or kube-proxy, by the mirror, serve now.
func (r *reconciliation) servedPorts() sets.Set[snapshot.Port] {
	served := sets.New[snapshot.Port]()
	for _, ds := range r.proxies.Cached(r.svc) {
		served.Insert(snapshot.HostPorts(ds.Spec.Template.Spec)...)
	}
	if r.current.Mirror != nil {
		served.Insert(snapshot.PortsOf(r.current.Mirror)...)
	}
	return served
}

func firewallPorts(ports sets.Set[snapshot.Port]) []firewall.Port {
	var list []firewall.Port
	for port := range ports {
		list = append(list, firewall.Port{Protocol: port.Protocol, Port: uint16(port.Number)})
	}
	return list
}
