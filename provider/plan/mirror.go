package plan

import (
	"maps"
	"slices"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// MirrorClass is the load balancer class of mirror Services. Nobody serves it:
// that keeps other controllers off.
const MirrorClass = options.Prefix + "mirror"

// MirrorName is the value of LabelName of mirror Services.
const MirrorName = "hostport-mirror"

// hidden has ExternalDNS pass over a mirror, whose addresses nobody outside can
// reach: it leaves resources to another controller that name one. The second
// prefix is that of its versions from 0.22.
var hidden = map[string]string{
	"external-dns.alpha.kubernetes.io/controller": ManagedBy,
	"external-dns.kubernetes.io/controller":       ManagedBy,
}

// mirror is a Service beside the user's which tells kube-proxy to serve the same
// backends, in the same way, on the addresses that packets really carry: its
// status lists them. Of what the user wrote it has what kube-proxy and the
// EndpointSlice controller go by, and nothing else. svc has only those ports that
// it may have.
func (s Settings) mirror(svc *v1.Service) *v1.Service {
	labels := s.labels(svc)
	labels[LabelName] = MirrorName
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: Name(svc), Labels: labels, Annotations: maps.Clone(hidden),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Service", Name: svc.Name, UID: svc.UID, Controller: ptr.To(true),
			}},
		},
		Spec: v1.ServiceSpec{
			Type:                          v1.ServiceTypeLoadBalancer,
			LoadBalancerClass:             ptr.To(MirrorClass),
			AllocateLoadBalancerNodePorts: ptr.To(false),
			Selector:                      maps.Clone(svc.Spec.Selector),
			Ports:                         mirroredPorts(svc),
			LoadBalancerSourceRanges:      mirroredRanges(svc),
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

// TellOfProxies has the mirror of a Service with UDP say whether the Service has
// proxies still. A node sends a flow that never pauses to where it went before,
// be it to a proxy that is gone; kube-proxy ends those that go elsewhere than to
// an endpoint, but looks for them only after a change of an EndpointSlice, whose
// labels are those of its Service.
func (p *Plan) TellOfProxies(any bool) {
	if p.Mirror == nil || !slices.ContainsFunc(p.Mirror.Spec.Ports, func(port v1.ServicePort) bool { return port.Protocol == v1.ProtocolUDP }) {
		return
	}
	p.Mirror.Labels[LabelProxies] = map[bool]string{true: "some", false: "none"}[any]
}

func mirroredPorts(svc *v1.Service) []v1.ServicePort {
	ports := Ports(svc)
	for i := range ports {
		ports[i].NodePort = 0
	}
	return ports
}

// nobody is a range of each IP family that no client is in.
var nobody = map[v1.IPFamily]string{v1.IPv4Protocol: "0.0.0.0/32", v1.IPv6Protocol: "::/128"}

// mirroredRanges is empty if the user wrote none: so it is in a Service that lets
// everybody in. The ranges have been read before.
func mirroredRanges(svc *v1.Service) []string {
	if written, _ := writtenRanges(svc); len(written) == 0 {
		return nil
	}
	ranges, _ := SourceRanges(svc)
	var list []string
	for _, r := range ranges {
		list = append(list, r.String())
	}
	for _, family := range shutOut(svc) {
		list = append(list, nobody[family])
	}
	return list
}

// UpdateMirror does for a mirror Service what UpdateDaemonSet does for a
// DaemonSet. Its status is not looked at.
func UpdateMirror(have, want *v1.Service) (*v1.Service, bool) {
	updated := have.DeepCopy()
	updated.Labels = merge(have.Labels, want.Labels)
	updated.Annotations = merge(have.Annotations, want.Annotations)
	updated.OwnerReferences = want.OwnerReferences
	updated.Spec = *want.Spec.DeepCopy()
	keepAllocated(&updated.Spec, have.Spec)
	if equality.Semantic.DeepEqual(have, updated) {
		return nil, false
	}
	return updated, true
}

// keepAllocated leaves what the API server has given out.
func keepAllocated(spec *v1.ServiceSpec, have v1.ServiceSpec) {
	spec.ClusterIP, spec.ClusterIPs = have.ClusterIP, have.ClusterIPs
	if n := len(spec.IPFamilies); n > 0 && n < len(have.ClusterIPs) { // It had two families.
		spec.ClusterIPs = have.ClusterIPs[:n]
	}
	if spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
		spec.HealthCheckNodePort = have.HealthCheckNodePort
	}
}

// IsMirror says whether a Service is a mirror, of whomever.
func IsMirror(svc *v1.Service) bool {
	return svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass == MirrorClass
}
