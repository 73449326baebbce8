package provider

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"

	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/provider/nodeaddress"
)

// lookup finds VMs. Only if a VM does not exist, its error matches cloudprovider.InstanceNotFound.
type lookup interface {
	ByProviderID(ctx context.Context, providerID string) (gce.Instance, error)
	ByNodeName(ctx context.Context, nodeName string) (gce.Instance, error)
}

// gceInstances implements cloudprovider.InstancesV2 for VMs of Compute Engine.
type gceInstances struct{ lookup lookup }

var _ cloudprovider.InstancesV2 = gceInstances{}

// of returns the VM of a Node, by provider id if the Node has one, otherwise by name.
func (g gceInstances) of(ctx context.Context, node *v1.Node) (gce.Instance, error) {
	var instance gce.Instance
	var err error
	if id := node.Spec.ProviderID; id != "" {
		instance, err = g.lookup.ByProviderID(ctx, id)
	} else {
		instance, err = g.lookup.ByNodeName(ctx, node.Name)
	}
	if err != nil {
		return instance, fmt.Errorf("finding the VM of node %s: %w", node.Name, err)
	}
	return instance, nil
}

// InstanceExists implements cloudprovider.InstancesV2. The caller deletes a Node whose VM does not
// exist, so it returns an error in case of doubt. This includes a Node without a provider id whose
// name no VM has: it may be a machine elsewhere, or a VM with another name.
func (g gceInstances) InstanceExists(ctx context.Context, node *v1.Node) (bool, error) {
	_, err := g.of(ctx, node)
	if errors.Is(err, cloudprovider.InstanceNotFound) && node.Spec.ProviderID != "" {
		return false, nil
	}
	return err == nil, err
}

// InstanceShutdown implements cloudprovider.InstancesV2.
func (g gceInstances) InstanceShutdown(ctx context.Context, node *v1.Node) (bool, error) {
	instance, err := g.of(ctx, node)
	return err == nil && instance.Shutdown(), err
}

// InstanceMetadata implements cloudprovider.InstancesV2.
func (g gceInstances) InstanceMetadata(ctx context.Context, node *v1.Node) (*cloudprovider.InstanceMetadata, error) {
	instance, err := g.of(ctx, node)
	if err != nil {
		return nil, err
	}
	internal, external := byNodeIP(node, instance)
	return &cloudprovider.InstanceMetadata{
		ProviderID:    instance.ProviderID(),
		InstanceType:  instance.MachineType,
		NodeAddresses: nodeAddresses(internal, external, node.Name, internalDNS(instance)),
		Zone:          instance.Zone(),
		Region:        instance.Region(),
	}, nil
}

// byNodeIP returns the internal and external addresses of a VM. It counts an external address as
// internal if it is in the kubelet's --node-ip. Only an IPv6 address can be there, as the VM's
// interface has it. As external, it would remove the Node's external IPv4 address: for each address
// in --node-ip, the node controller drops all other addresses of its type.
func byNodeIP(node *v1.Node, instance gce.Instance) (internal, external []netip.Addr) {
	internal = slices.Clone(instance.InternalIPs)
	given, _ := nodeaddress.Parse(node.Annotations[cloudproviderapi.AnnotationAlphaProvidedIPAddr]) // The node controller reports invalid addresses.
	for _, ip := range instance.ExternalIPs {
		if slices.Contains(given, ip) {
			internal = append(internal, ip)
		} else {
			external = append(external, ip)
		}
	}
	return internal, external
}

// internalDNS returns the VM's zonal DNS name. In it, a domain-scoped project "example.com:project"
// is written as project.example.com.
func internalDNS(instance gce.Instance) string {
	if instance.Hostname != "" {
		return instance.Hostname
	}
	project := instance.ID.Project
	if domain, name, old := strings.Cut(project, ":"); old {
		project = name + "." + domain
	}
	return fmt.Sprintf("%s.%s.c.%s.internal", instance.Name(), instance.Zone(), project)
}

func nodeAddresses(internal, external []netip.Addr, hostname, dns string) []v1.NodeAddress {
	var list []v1.NodeAddress
	for _, ip := range internal {
		list = append(list, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	for _, ip := range external {
		list = append(list, v1.NodeAddress{Type: v1.NodeExternalIP, Address: ip.String()})
	}
	list = append(list, v1.NodeAddress{Type: v1.NodeHostName, Address: hostname})
	if dns != "" {
		list = append(list, v1.NodeAddress{Type: v1.NodeInternalDNS, Address: dns})
	}
	return list
}

// ownInstances implements cloudprovider.InstancesV2 without a cloud, from the Nodes alone.
type ownInstances struct{ addresses *nodeaddress.Reader }

var _ cloudprovider.InstancesV2 = ownInstances{}

// InstanceExists always returns true: without a cloud, only an administrator knows that a machine
// was removed.
func (ownInstances) InstanceExists(context.Context, *v1.Node) (bool, error) { return true, nil }

// InstanceShutdown always returns false, for the same reason.
func (ownInstances) InstanceShutdown(context.Context, *v1.Node) (bool, error) { return false, nil }

// InstanceMetadata implements cloudprovider.InstancesV2.
func (o ownInstances) InstanceMetadata(ctx context.Context, node *v1.Node) (*cloudprovider.InstanceMetadata, error) {
	addresses, err := o.of(ctx, node)
	if err != nil {
		return nil, err
	}
	id := node.Spec.ProviderID
	if id == "" {
		id = ProviderName + "://" + node.Name
	}
	return &cloudprovider.InstanceMetadata{
		ProviderID:    id,
		NodeAddresses: addresses,
		Zone:          node.Labels[v1.LabelTopologyZone],
		Region:        node.Labels[v1.LabelTopologyRegion],
	}, nil
}

// of returns a Node's addresses. The kubelet sets the annotation only if it runs with
// --cloud-provider=external and --node-ip. Without --cloud-provider=external, it writes the
// addresses itself and reverts changes within ten seconds, so they are returned unchanged.
func (o ownInstances) of(ctx context.Context, node *v1.Node) ([]v1.NodeAddress, error) {
	const provided = cloudproviderapi.AnnotationAlphaProvidedIPAddr
	internal, invalid := nodeaddress.Parse(node.Annotations[provided])
	if len(invalid) > 0 {
		return nil, fmt.Errorf("node %s: annotation %s: %s not valid: correct --node-ip of its kubelet", node.Name, provided, strings.Join(invalid, ", "))
	}
	if len(internal) > 0 {
		return nodeAddresses(internal, o.addresses.External(ctx, node), node.Name, ""), nil
	}
	known := slices.ContainsFunc(node.Status.Addresses, func(a v1.NodeAddress) bool { return a.Type == v1.NodeInternalIP })
	if !known {
		return nil, fmt.Errorf("node %s has neither annotation %s nor an InternalIP, so its address is unknown: start its kubelet with --node-ip", node.Name, provided)
	}
	return slices.Clone(node.Status.Addresses), nil
}
