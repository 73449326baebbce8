package provider

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// ownNode is a node as a kubelet on premise leaves it, with annotations in
// pairs of key and value.
func ownNode(addresses []v1.NodeAddress, annotations ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: "n1", UID: "n1-uid", Annotations: map[string]string{},
		Labels: map[string]string{v1.LabelTopologyZone: "rack-1", v1.LabelTopologyRegion: "site-1"},
	}, Status: v1.NodeStatus{Addresses: addresses}}
	for i := 0; i < len(annotations); i += 2 {
		n.Annotations[annotations[i]] = annotations[i+1]
	}
	return n
}

const provided = cloudproviderapi.AnnotationAlphaProvidedIPAddr

var (
	hostname = v1.NodeAddress{Type: v1.NodeHostName, Address: "n1"}
	internal = v1.NodeAddress{Type: v1.NodeInternalIP, Address: "10.0.0.1"}
	external = v1.NodeAddress{Type: v1.NodeExternalIP, Address: "203.0.113.1"}
)

func TestMetadataOfANodeWithoutACloud(t *testing.T) {
	for name, c := range map[string]struct {
		node *v1.Node
		want []v1.NodeAddress
	}{
		"the kubelet's address": {ownNode(nil, provided, "10.0.0.1"), []v1.NodeAddress{internal, hostname}},
		"both families, and external addresses": {
			ownNode(nil, provided, "10.0.0.1,fd00::1", nodeaddress.Annotation, "203.0.113.1, 2001:DB8::1"),
			[]v1.NodeAddress{internal, {Type: v1.NodeInternalIP, Address: "fd00::1"}, external, {Type: v1.NodeExternalIP, Address: "2001:db8::1"}, hostname},
		},
		"broken entries hurt no others": {
			ownNode(nil, provided, "10.0.0.1", nodeaddress.Annotation, "nonsense,203.0.113.1,,0.0.0.0,203.0.113.1,127.0.0.1,fe80::1%eth0,203.0.113.300"),
			[]v1.NodeAddress{internal, external, hostname},
		},
		"nothing but broken entries": {
			ownNode(nil, provided, "10.0.0.1", nodeaddress.Annotation, "203.0.113.1;203.0.113.2"), []v1.NodeAddress{internal, hostname},
		},
		"an IPv4 address in IPv6 form": {
			ownNode(nil, provided, "10.0.0.1", nodeaddress.Annotation, "::ffff:203.0.113.1"), []v1.NodeAddress{internal, external, hostname},
		},
		"a kubelet that writes its addresses itself": {
			ownNode([]v1.NodeAddress{internal, hostname}, nodeaddress.Annotation, "203.0.113.1"), []v1.NodeAddress{internal, hostname},
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := &cloudprovider.InstanceMetadata{ProviderID: "hostport://n1", Zone: "rack-1", Region: "site-1", NodeAddresses: c.want}
			got, err := ownInstances{&nodeaddress.Reader{}}.InstanceMetadata(t.Context(), c.node)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("error %v, metadata differs (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestANodeWithoutACloudIsThereAndKeepsItsProviderID(t *testing.T) {
	instances, n := ownInstances{&nodeaddress.Reader{}}, ownNode(nil, provided, "10.0.0.1")
	if exists, err := instances.InstanceExists(t.Context(), n); !exists || err != nil {
		t.Errorf("exists: %t, %v", exists, err)
	}
	if shutdown, err := instances.InstanceShutdown(t.Context(), n); shutdown || err != nil {
		t.Errorf("shutdown: %t, %v", shutdown, err)
	}
	n.Spec.ProviderID = "other://x"
	if got, err := instances.InstanceMetadata(t.Context(), n); err != nil || got.ProviderID != "other://x" {
		t.Errorf("a provider id that is set is not kept: %v, %v", got, err)
	}
}

func TestANodeWhoseAddressNobodyKnowsIsAnError(t *testing.T) {
	for name, n := range map[string]*v1.Node{
		"no address at all":   ownNode(nil),
		"a host name only":    ownNode([]v1.NodeAddress{hostname}),
		"a broken annotation": ownNode([]v1.NodeAddress{internal}, provided, "x"),
	} {
		_, err := ownInstances{&nodeaddress.Reader{}}.InstanceMetadata(t.Context(), n)
		if err == nil || !strings.Contains(err.Error(), "--node-ip") || !strings.Contains(err.Error(), "n1") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAnnotatedAddressesArePublishedWhateverTheKubeletWrites(t *testing.T) {
	c := twoNodes(t)
	c.config.Provider, c.config.LoadBalancer.Addresses = config.ProviderNone, options.ExternalOrInternal
	c.addresses = &nodeaddress.Reader{}
	c.start()
	c.serve(service("web"))
	n := must[*v1.Node](c)(c.kube.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})).DeepCopy()
	n.Annotations = map[string]string{nodeaddress.Annotation: "203.0.113.9,nonsense"}
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{}))
	c.publishes("web", "203.0.113.1", "203.0.113.2", "203.0.113.9")
	c.eventually("an event on the node", func() bool { return c.hasEvent("Warning", "ExternalIPsInvalid", "n1", "nonsense") })
}
