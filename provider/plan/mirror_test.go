package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// withAllFields sets every field of a Service that a user may set.
func withAllFields(svc *v1.Service) {
	svc.Labels, svc.Annotations = map[string]string{"team": "x"}, map[string]string{"example.com/a": "b"}
	svc.Spec = v1.ServiceSpec{
		Type: v1.ServiceTypeLoadBalancer, LoadBalancerClass: ptr.To("hostport-ccm.io/hostport"), Selector: map[string]string{"app": "web"},
		ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd00::7"},
		IPFamilies: []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}, IPFamilyPolicy: ptr.To(v1.IPFamilyPolicyPreferDualStack),
		Ports: []v1.ServicePort{
			{Name: "https", Protocol: v1.ProtocolTCP, Port: 443, TargetPort: intstr.FromString("tls"), NodePort: 30443, AppProtocol: ptr.To("https")},
			{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(5353), NodePort: 30053},
		},
		ExternalIPs: []string{"192.0.2.1"}, LoadBalancerIP: "192.0.2.2", HealthCheckNodePort: 31000,
		LoadBalancerSourceRanges: []string{" 198.51.100.7/24"},
		ExternalTrafficPolicy:    v1.ServiceExternalTrafficPolicyLocal, InternalTrafficPolicy: ptr.To(v1.ServiceInternalTrafficPolicyCluster),
		SessionAffinity:       v1.ServiceAffinityClientIP,
		SessionAffinityConfig: &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](60)}},
		TrafficDistribution:   ptr.To(v1.ServiceTrafficDistributionPreferClose), PublishNotReadyAddresses: true,
		AllocateLoadBalancerNodePorts: ptr.To(true),
	}
}

func TestAMirrorHasOnlyWhatKubeProxyNeeds(t *testing.T) {
	got := mustBuild(t, service(withAllFields), options.Default()).Mirror
	want := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "hostport-web-0a1b2c3d",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web", UID: uid, Controller: ptr.To(true)}},
		},
	}
	withAllFields(want)
	want.Labels, want.Annotations = got.Labels, got.Annotations
	spec := &want.Spec
	spec.LoadBalancerClass, spec.AllocateLoadBalancerNodePorts = ptr.To("hostport-ccm.io/mirror"), ptr.To(false)
	spec.ClusterIP, spec.ClusterIPs, spec.ExternalIPs, spec.LoadBalancerIP, spec.HealthCheckNodePort = "", nil, nil, "", 0
	spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24", "::/128"}
	spec.Ports[0], spec.Ports[1] = spec.Ports[1], spec.Ports[0]
	spec.Ports[0].NodePort, spec.Ports[1].NodePort = 0, 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mirror differs (-want +got):\n%s", diff)
	}
}

func TestAMirrorIsMarkedAndHiddenFromExternalDNS(t *testing.T) {
	svc := service(withAllFields)
	mirror := mustBuild(t, svc, options.Default()).Mirror
	for key, want := range map[string]string{LabelName: MirrorName, LabelManagedBy: ManagedBy, LabelClusterID: "alpha", LabelServiceUID: string(uid)} {
		if mirror.Labels[key] != want {
			t.Errorf("label %s is %q, want %q", key, mirror.Labels[key], want)
		}
	}
	if len(mirror.Annotations) != len(notForExternalDNS) || mirror.Annotations["external-dns.alpha.kubernetes.io/controller"] == "dns-controller" {
		t.Errorf("annotations %v", mirror.Annotations)
	}
	if !settings.Owns(svc, mirror) || !IsMirror(mirror) || IsMirror(svc) {
		t.Error("the mirror is not recognized")
	}
	mirror.Labels = nil
	if !settings.Owns(svc, mirror) {
		t.Error("the mirror is not recognized without its labels")
	}
	if other := service(func(svc *v1.Service) { svc.UID = "other" }); settings.Owns(other, mirror) {
		t.Error("another Service owns the mirror")
	}
}

func TestAMirrorIsLabelledWhileProxiesMayHaveUDPFlows(t *testing.T) {
	for name, tc := range map[string]struct {
		protocol v1.Protocol
		proxies  bool
		want     string
	}{
		"UDP port with proxies":    {v1.ProtocolUDP, true, "some"},
		"UDP port without proxies": {v1.ProtocolUDP, false, "none"},
		"TCP port with proxies":    {v1.ProtocolTCP, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustBuild(t, service(func(svc *v1.Service) { svc.Spec.Ports = []v1.ServicePort{{Protocol: tc.protocol, Port: 53}} }), options.Default())
			p.SetProxiesLabel(tc.proxies)
			if got := p.Mirror.Labels[LabelProxies]; got != tc.want {
				t.Errorf("label %s is %q, want %q", LabelProxies, got, tc.want)
			}
		})
	}
}

func TestSourceRangesOfTheAnnotationAreMirrored(t *testing.T) {
	svc := service(func(svc *v1.Service) {
		svc.Annotations = map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: "198.51.100.0/24, 203.0.113.9/32"}
	})
	if diff := cmp.Diff([]string{"198.51.100.0/24", "203.0.113.9/32"}, mustBuild(t, svc, options.Default()).Mirror.Spec.LoadBalancerSourceRanges); diff != "" {
		t.Errorf("ranges differ (-want +got):\n%s", diff)
	}
	if got := mustBuild(t, service(), options.Default()).Mirror.Spec.LoadBalancerSourceRanges; got != nil {
		t.Errorf("a Service without ranges: %v", got)
	}
}

func TestSourceRangesOfOneFamilyDenyTheOtherFamily(t *testing.T) {
	for name, c := range map[string]struct {
		families     []v1.IPFamily
		ranges, want []string
	}{
		"only IPv6":     {[]v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}, []string{"2001:db8::/32"}, []string{"2001:db8::/32", "0.0.0.0/32"}},
		"only IPv4":     {[]v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}, []string{"192.0.2.0/24"}, []string{"192.0.2.0/24", "::/128"}},
		"both families": {[]v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}, []string{"192.0.2.0/24", "2001:db8::/32"}, []string{"192.0.2.0/24", "2001:db8::/32"}},
		"only the family that the Service does not have": {[]v1.IPFamily{v1.IPv4Protocol}, []string{"2001:db8::/32"}, []string{"2001:db8::/32", "0.0.0.0/32"}},
		"the family of a Service with one family":        {[]v1.IPFamily{v1.IPv4Protocol}, []string{"192.0.2.0/24"}, []string{"192.0.2.0/24"}},
	} {
		svc := service(func(svc *v1.Service) { svc.Spec.IPFamilies, svc.Spec.LoadBalancerSourceRanges = c.families, c.ranges })
		if diff := cmp.Diff(c.want, mustBuild(t, svc, options.Default()).Mirror.Spec.LoadBalancerSourceRanges); diff != "" {
			t.Errorf("%s: ranges differ (-want +got):\n%s", name, diff)
		}
	}
}

func TestUpdateMirrorRevertsManualChanges(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(have *v1.Service)
		want   func(*v1.Service)
		writes bool
	}{
		"no change":                              {},
		"labels and annotations added by others": {edit: func(m *v1.Service) { m.Labels["a"], m.Annotations["a"] = "b", "b" }},
		"a status":                               {edit: func(m *v1.Service) { m.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "10.0.0.1"}} }},
		"an edited port":                         {edit: func(m *v1.Service) { m.Spec.Ports[0].Port = 22 }, writes: true},
		"an added node port":                     {edit: func(m *v1.Service) { m.Spec.Ports[0].NodePort = 30000 }, writes: true},
		"added external IPs":                     {edit: func(m *v1.Service) { m.Spec.ExternalIPs = []string{"10.0.0.1"} }, writes: true},
		"a removed owner":                        {edit: func(m *v1.Service) { m.OwnerReferences = nil }, writes: true},
		"an added owner": {edit: func(m *v1.Service) {
			m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{UID: "other"})
		}, writes: true},
		"a removed label":                 {edit: func(m *v1.Service) { delete(m.Labels, LabelServiceUID) }, writes: true},
		"an edited annotation":            {edit: func(m *v1.Service) { m.Annotations["external-dns.kubernetes.io/controller"] = "dns-controller" }, writes: true},
		"a changed type":                  {edit: func(m *v1.Service) { m.Spec.Type, m.Spec.LoadBalancerClass = v1.ServiceTypeClusterIP, nil }, writes: true},
		"a Service that changes policy":   {want: func(svc *v1.Service) { svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster }, writes: true},
		"a Service that loses a family":   {want: func(svc *v1.Service) { svc.Spec.IPFamilies = svc.Spec.IPFamilies[:1] }, writes: true},
		"a Service that changes affinity": {want: func(svc *v1.Service) { svc.Spec.SessionAffinity = v1.ServiceAffinityNone }, writes: true},
	} {
		t.Run(name, func(t *testing.T) {
			have := mustBuild(t, service(withAllFields), options.Default()).Mirror
			have.ResourceVersion, have.UID = "7", "m"
			have.Spec.ClusterIP, have.Spec.ClusterIPs, have.Spec.HealthCheckNodePort = "10.96.0.8", []string{"10.96.0.8", "fd00::8"}, 32000
			if c.edit != nil {
				c.edit(have)
			}
			svc := service(withAllFields)
			if c.want != nil {
				c.want(svc)
			}
			want := mustBuild(t, svc, options.Default()).Mirror
			next, differences := UpdateMirror(have, want)
			writes := len(differences) > 0
			if writes != c.writes {
				t.Fatalf("writes: %t", writes)
			}
			if !writes {
				return
			}
			if next.ResourceVersion != "7" || next.Spec.ClusterIP != "10.96.0.8" || len(next.Spec.ClusterIPs) != len(want.Spec.IPFamilies) {
				t.Errorf("fields that the API server set are lost: %+v", next)
			}
			if local := want.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal; local != (next.Spec.HealthCheckNodePort == 32000) {
				t.Errorf("health check node port %d", next.Spec.HealthCheckNodePort)
			}
			if _, again := UpdateMirror(next, want); len(again) > 0 {
				t.Error("the result would be written again")
			}
		})
	}
}
