package plan

import (
	"maps"
	"slices"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// MirrorClass is the load balancer class of mirror Services. No controller serves it.
const MirrorClass = options.Prefix + "mirror"

// MirrorName is the value of LabelName of mirror Services.
const MirrorName = "hostport-mirror"

// notForExternalDNS makes ExternalDNS ignore a mirror, whose addresses clients outside cannot
// reach: it leaves resources alone that name another controller. The second prefix is that of
// ExternalDNS from version 0.22.
var notForExternalDNS = map[string]string{
	"external-dns.alpha.kubernetes.io/controller": ManagedBy,
	"external-dns.kubernetes.io/controller":       ManagedBy,
}

// mirror returns a Service that makes kube-proxy serve the backends of svc, in the same way, on
// the addresses that packets carry when they arrive at a node. These addresses are in the
// mirror's status. Its spec has the fields of svc that kube-proxy and the EndpointSlice controller
// read, and no others. svc has only the ports that it gets.
func (s Settings) mirror(svc *v1.Service, o options.Options) *v1.Service {
	labels := s.labels(svc)
	labels[LabelName] = MirrorName
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: Name(svc), Labels: labels, Annotations: maps.Clone(notForExternalDNS),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Service", Name: svc.Name, UID: svc.UID, Controller: ptr.To(true),
			}},
		},
		Spec: v1.ServiceSpec{
			Type:                          v1.ServiceTypeLoadBalancer,
			LoadBalancerClass:             ptr.To(MirrorClass),
			AllocateLoadBalancerNodePorts: ptr.To(false),
			Selector:                      maps.Clone(svc.Spec.Selector),
			Ports:                         mirrorPorts(svc),
			LoadBalancerSourceRanges:      mirrorRanges(svc, o),
			ExternalTrafficPolicy:         svc.Spec.ExternalTrafficPolicy,
			InternalTrafficPolicy:         svc.Spec.InternalTrafficPolicy,
			SessionAffinity:               svc.Spec.SessionAffinity,
			SessionAffinityConfig:         svc.Spec.SessionAffinityConfig,
			IPFamilies:                    svc.Spec.IPFamilies,
			IPFamilyPolicy:                svc.Spec.IPFamilyPolicy,
			PublishNotReadyAddresses:      svc.Spec.PublishNotReadyAddresses,
			TrafficDistribution:           svc.Spec.TrafficDistribution,
		},
	}
}

func mirrorPorts(svc *v1.Service) []v1.ServicePort {
	ports := snapshot.ServicePorts(svc)
	for i := range ports {
		ports[i].NodePort = 0
	}
	return ports
}

// noClient is a range of each IP family that no client is in.
var noClient = map[v1.IPFamily]string{v1.IPv4Protocol: "0.0.0.0/32", v1.IPv6Protocol: "::/128"}

// mirrorRanges is empty if all clients are allowed. An IP family without a range gets one that
// no client is in. The ranges are valid.
func mirrorRanges(svc *v1.Service, o options.Options) []string {
	if written, _ := options.WrittenRanges(svc); len(written) == 0 && !o.IsConfined(svc) {
		return nil
	}
	ranges, _ := o.ClientRanges(svc)
	var list []string
	for _, r := range ranges {
		list = append(list, r.String())
	}
	for _, family := range unrestrictedFamilies(svc, ranges) {
		list = append(list, noClient[family])
	}
	return list
}

// SetProxiesLabel records on the mirror of a Service with UDP ports whether the Service still has
// proxies. A node sends a UDP flow that never pauses to where it went before, even to a proxy
// that is gone. kube-proxy ends flows that go elsewhere than to an endpoint, but looks for them
// only when an EndpointSlice changes; its labels are copied from its Service.
func (p *Plan) SetProxiesLabel(exist bool) {
	if p.Mirror == nil || !HasUDP(p.Mirror) {
		return
	}
	p.Mirror.Labels[LabelProxies] = map[bool]string{true: "some", false: "none"}[exist]
}

// HasUDP reports whether a Service has a UDP port.
func HasUDP(svc *v1.Service) bool {
	return slices.ContainsFunc(svc.Spec.Ports, func(p v1.ServicePort) bool { return p.Protocol == v1.ProtocolUDP })
}

// UpdateMirror returns what to write so that have becomes like want, and the differences. The status
// is not compared.
func UpdateMirror(have, want *v1.Service) (*v1.Service, []Difference) {
	updated := have.DeepCopy()
	updated.Labels = merge(have.Labels, want.Labels)
	updated.Annotations = merge(have.Annotations, want.Annotations)
	updated.OwnerReferences = want.OwnerReferences
	updated.Spec = *want.Spec.DeepCopy()
	// The API server has allocated these.
	updated.Spec.ClusterIP, updated.Spec.ClusterIPs = have.Spec.ClusterIP, have.Spec.ClusterIPs
	if n := len(want.Spec.IPFamilies); n > 0 && n < len(have.Spec.ClusterIPs) { // It had two families.
		updated.Spec.ClusterIPs = have.Spec.ClusterIPs[:n]
	}
	if want.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
		updated.Spec.HealthCheckNodePort = have.Spec.HealthCheckNodePort
	}
	return updated, slices.Concat(
		lacking("metadata.labels", have.Labels, want.Labels),
		lacking("metadata.annotations", have.Annotations, want.Annotations),
		differing("metadata.ownerReferences", have.OwnerReferences, want.OwnerReferences),
		differing("spec", have.Spec, updated.Spec),
	)
}

// MirrorOf reports whether a Service is the mirror of another, whatever labels and owner references
// it has.
func MirrorOf(mirror, svc *v1.Service) bool {
	return IsMirror(mirror) && mirror.Namespace == svc.Namespace && mirror.Name == Name(svc)
}

// IsMirror reports whether a Service is a mirror, made for any Service.
func IsMirror(svc *v1.Service) bool {
	return svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass == MirrorClass
}
