package provider

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"
	"k8s.io/cloud-provider/node/helpers"

	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// vms is a lookup in a fixed list. If failure is set, each call returns it.
type vms struct {
	list    []gce.Instance
	failure error
}

func (v vms) find(matches func(gce.Instance) bool) (gce.Instance, error) {
	if v.failure != nil {
		return gce.Instance{}, v.failure
	}
	for _, vm := range v.list {
		if matches(vm) {
			return vm, nil
		}
	}
	return gce.Instance{}, &gce.Error{Verb: "instances.get", Resource: "x", Kind: gce.KindNotFound, Err: errors.New("404")}
}

func (v vms) ByProviderID(_ context.Context, id string) (gce.Instance, error) {
	return v.find(func(vm gce.Instance) bool { return vm.ProviderID() == id })
}

func (v vms) ByNodeName(_ context.Context, name string) (gce.Instance, error) {
	return v.find(func(vm gce.Instance) bool { return vm.Name() == name })
}

func vm(name, status string) gce.Instance {
	return gce.Instance{
		ID: gce.ProviderID{Project: "p", Zone: "europe-west1-b", Name: name}, MachineType: "e2-small", Status: status,
		InternalIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, ExternalIPs: []netip.Addr{netip.MustParseAddr("203.0.113.1")},
	}
}

func TestMetadataOfAVM(t *testing.T) {
	noExternal := vm("n2", "RUNNING")
	noExternal.ExternalIPs, noExternal.ID.Project = nil, "example.com:p"
	instances := gceInstances{vms{list: []gce.Instance{vm("n1", "RUNNING"), noExternal}}}
	want := &cloudprovider.InstanceMetadata{
		ProviderID: "gce://p/europe-west1-b/n1", InstanceType: "e2-small", Zone: "europe-west1-b", Region: "europe-west1",
		NodeAddresses: []v1.NodeAddress{
			{Type: v1.NodeInternalIP, Address: "10.0.0.1"},
			{Type: v1.NodeExternalIP, Address: "203.0.113.1"},
			{Type: v1.NodeHostName, Address: "n1"},
			{Type: v1.NodeInternalDNS, Address: "n1.europe-west1-b.c.p.internal"},
		},
	}
	for name, n := range map[string]*v1.Node{
		"by name":        {ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		"by provider id": {ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: v1.NodeSpec{ProviderID: "gce://p/europe-west1-b/n1"}},
	} {
		got, err := instances.InstanceMetadata(context.Background(), n)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: error %v, metadata differs (-want +got):\n%s", name, err, diff)
		}
	}
	got, err := instances.InstanceMetadata(context.Background(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range got.NodeAddresses {
		if a.Type == v1.NodeExternalIP {
			t.Errorf("a VM without an external address has %q", a.Address)
		}
		if a.Type == v1.NodeInternalDNS && a.Address != "n2.europe-west1-b.c.p.example.com.internal" {
			t.Errorf("internal DNS name: %s", a.Address)
		}
	}
}

func TestAnExternalIPv6AddressInNodeIPHidesNoOtherAddress(t *testing.T) {
	dual := vm("n1", "RUNNING")
	dual.ExternalIPs = append(dual.ExternalIPs, netip.MustParseAddr("2001:db8::1"))
	instances := gceInstances{vms{list: []gce.Instance{dual}}}
	for provided, want := range map[string][]v1.NodeAddress{
		"10.0.0.1": {
			{Type: v1.NodeInternalIP, Address: "10.0.0.1"},
			{Type: v1.NodeExternalIP, Address: "203.0.113.1"},
			{Type: v1.NodeExternalIP, Address: "2001:db8::1"},
		},
		"10.0.0.1,2001:db8:0::1": {
			{Type: v1.NodeInternalIP, Address: "10.0.0.1"},
			{Type: v1.NodeInternalIP, Address: "2001:db8::1"},
			{Type: v1.NodeExternalIP, Address: "203.0.113.1"},
		},
	} {
		node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{cloudproviderapi.AnnotationAlphaProvidedIPAddr: provided}}}
		metadata, err := instances.InstanceMetadata(context.Background(), node)
		if err != nil {
			t.Fatal(err)
		}
		// As the node controller does.
		got, err := helpers.GetNodeAddressesFromNodeIP(provided, metadata.NodeAddresses)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
			t.Errorf("--node-ip=%s: the Node's addresses (-want +got):\n%s", provided, diff)
		}
	}
}

func TestANodeWithoutProviderIDIsNeverReportedAsGone(t *testing.T) {
	exists, err := gceInstances{vms{}}.InstanceExists(context.Background(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	if exists || err == nil {
		t.Errorf("exists %t, error %v, want an error", exists, err)
	}
}

func TestOnlyAMissingVMIsReportedAsGone(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: v1.NodeSpec{ProviderID: "gce://p/europe-west1-b/n1"}}
	forbidden := &gce.Error{Verb: "instances.get", Kind: gce.KindForbidden, Err: errors.New("403")}
	for name, c := range map[string]struct {
		vms              vms
		exists, shutdown bool
		fails            bool
	}{
		"running":       {vms: vms{list: []gce.Instance{vm("n1", "RUNNING")}}, exists: true},
		"stopping":      {vms: vms{list: []gce.Instance{vm("n1", "STOPPING")}}, exists: true},
		"stopped":       {vms: vms{list: []gce.Instance{vm("n1", "STOPPED")}}, exists: true, shutdown: true},
		"terminated":    {vms: vms{list: []gce.Instance{vm("n1", "TERMINATED")}}, exists: true, shutdown: true},
		"suspended":     {vms: vms{list: []gce.Instance{vm("n1", "SUSPENDED")}}, exists: true, shutdown: true},
		"missing":       {vms: vms{}},
		"no permission": {vms: vms{failure: forbidden}, fails: true},
		"no network":    {vms: vms{failure: errors.New("timeout")}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			exists, err := gceInstances{c.vms}.InstanceExists(context.Background(), node)
			if exists != c.exists || (err != nil) != c.fails {
				t.Errorf("exists: %t, %v", exists, err)
			}
			if !c.exists {
				return
			}
			shutdown, err := gceInstances{c.vms}.InstanceShutdown(context.Background(), node)
			if shutdown != c.shutdown || err != nil {
				t.Errorf("shutdown: %t, %v", shutdown, err)
			}
		})
	}
}

// ownNode returns a node without a cloud. annotations are pairs of key and value.
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
		"the address from --node-ip": {ownNode(nil, provided, "10.0.0.1"), []v1.NodeAddress{internal, hostname}},
		"addresses of both families and annotated external addresses": {
			ownNode(nil, provided, "10.0.0.1,fd00::1", nodeaddress.Annotation, "203.0.113.1, 2001:DB8::1"),
			[]v1.NodeAddress{internal, {Type: v1.NodeInternalIP, Address: "fd00::1"}, external, {Type: v1.NodeExternalIP, Address: "2001:db8::1"}, hostname},
		},
		"invalid entries do not affect valid ones": {
			ownNode(nil, provided, "10.0.0.1", nodeaddress.Annotation, "nonsense,203.0.113.1,,0.0.0.0,203.0.113.1,127.0.0.1,fe80::1%eth0,203.0.113.300"),
			[]v1.NodeAddress{internal, external, hostname},
		},
		"only invalid entries": {
			ownNode(nil, provided, "10.0.0.1", nodeaddress.Annotation, "203.0.113.1;203.0.113.2"), []v1.NodeAddress{internal, hostname},
		},
		"an IPv4 address in IPv6 form": {
			ownNode(nil, provided, "10.0.0.1", nodeaddress.Annotation, "::ffff:203.0.113.1"), []v1.NodeAddress{internal, external, hostname},
		},
		"addresses that the kubelet writes itself are not changed": {
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

func TestANodeWithoutACloudExistsAndKeepsItsProviderID(t *testing.T) {
	instances, n := ownInstances{&nodeaddress.Reader{}}, ownNode(nil, provided, "10.0.0.1")
	if exists, err := instances.InstanceExists(t.Context(), n); !exists || err != nil {
		t.Errorf("exists: %t, %v", exists, err)
	}
	if shutdown, err := instances.InstanceShutdown(t.Context(), n); shutdown || err != nil {
		t.Errorf("shutdown: %t, %v", shutdown, err)
	}
	n.Spec.ProviderID = "other://x"
	if got, err := instances.InstanceMetadata(t.Context(), n); err != nil || got.ProviderID != "other://x" {
		t.Errorf("the existing provider id was replaced: %v, %v", got, err)
	}
}

func TestANodeWithoutAKnownAddressIsAnError(t *testing.T) {
	for name, n := range map[string]*v1.Node{
		"no address at all":     ownNode(nil),
		"a host name only":      ownNode([]v1.NodeAddress{hostname}),
		"an invalid annotation": ownNode([]v1.NodeAddress{internal}, provided, "x"),
	} {
		_, err := ownInstances{&nodeaddress.Reader{}}.InstanceMetadata(t.Context(), n)
		if err == nil || !strings.Contains(err.Error(), "--node-ip") || !strings.Contains(err.Error(), "n1") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAnnotatedAddressesArePublishedWithoutNodeIP(t *testing.T) {
	c := twoNodes(t)
	c.config.Provider, c.config.LoadBalancer.Addresses = config.ProviderNone, options.ExternalOrInternal
	c.addresses = &nodeaddress.Reader{}
	c.start()
	c.serve(service("web"))
	n := must[*v1.Node](c)(c.kube.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})).DeepCopy()
	n.Annotations = map[string]string{nodeaddress.Annotation: "203.0.113.9,nonsense"}
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{}))
	c.publishes("web", "203.0.113.2", "203.0.113.9")
	c.eventually("an event on the node reports the invalid entry", func() bool { return c.hasEvent("Warning", "ExternalIPsInvalid", "n1", "nonsense") })
}
