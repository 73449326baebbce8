package provider

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"
	"k8s.io/cloud-provider/node/helpers"

	"github.com/hostport-ccm/hostport-ccm/internal/gce"
)

// vms is a lookup over a fixed list. failure, if set, is returned always.
type vms struct {
	list    []gce.Instance
	failure error
}

func (v vms) find(fits func(gce.Instance) bool) (gce.Instance, error) {
	if v.failure != nil {
		return gce.Instance{}, v.failure
	}
	for _, vm := range v.list {
		if fits(vm) {
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
			t.Errorf("a VM without external address shows %q", a.Address)
		}
		if a.Type == v1.NodeInternalDNS && a.Address != "n2.europe-west1-b.c.p.example.com.internal" {
			t.Errorf("internal DNS name: %s", a.Address)
		}
	}
}

func TestAnExternalIPv6InNodeIPCostsNoOtherAddress(t *testing.T) {
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
		// What the node controller makes of it.
		got, err := helpers.GetNodeAddressesFromNodeIP(provided, metadata.NodeAddresses)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
			t.Errorf("--node-ip=%s: the Node's addresses (-want +got):\n%s", provided, diff)
		}
	}
}

func TestANodeThatWasNeverTiedToAVMIsNotSaidToBeGone(t *testing.T) {
	exists, err := gceInstances{vms{}}.InstanceExists(context.Background(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	if exists || err == nil {
		t.Errorf("exists %t, error %v, want an error", exists, err)
	}
}

func TestOnlyATrueAbsenceIsAbsence(t *testing.T) {
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
		"gone":          {vms: vms{}},
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
