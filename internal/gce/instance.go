package gce

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"google.golang.org/api/compute/v1"
)

// Instance is what Kubernetes wants to know about a VM.
type Instance struct {
	ID ProviderID
	// Hostname is the VM's custom host name; usually empty.
	Hostname string
	// MachineType is the type's name, as e2-small.
	MachineType string
	// Status is the API's: RUNNING, STOPPED, TERMINATED, …
	Status string
	// Tags are the network tags, sorted.
	Tags []string
	// InternalIPs and ExternalIPs are those of the interfaces in the
	// configured network, IPv4 before IPv6, and hold nothing empty.
	InternalIPs, ExternalIPs []netip.Addr
}

// ProviderID writes the id as Nodes carry it.
func (i Instance) ProviderID() string { return i.ID.String() }

// Name is the instance's name, which is the node's name up to its first dot.
func (i Instance) Name() string { return i.ID.Name }

// Zone is the zone's name.
func (i Instance) Zone() string { return i.ID.Zone }

// Region is the region's name.
func (i Instance) Region() string { return i.ID.Region() }

// Shutdown says whether the VM is off, and not on its way to be on.
func (i Instance) Shutdown() bool {
	return slices.Contains([]string{"STOPPED", "TERMINATED", "SUSPENDED"}, i.Status)
}

// instanceOf translates the API's form. Of several interfaces it takes those
// in network: an address in another VPC is of no use to the cluster.
func instanceOf(project, network string, in *compute.Instance) Instance {
	out := Instance{
		ID:          ProviderID{Project: project, Zone: path.Base(in.Zone), Name: in.Name},
		Hostname:    in.Hostname,
		MachineType: path.Base(in.MachineType),
		Status:      in.Status,
	}
	if in.Tags != nil {
		out.Tags = slices.Sorted(slices.Values(in.Tags.Items))
	}
	for _, nic := range interfacesIn(network, in.NetworkInterfaces) {
		out.InternalIPs = append(out.InternalIPs, internalIPs(nic)...)
		out.ExternalIPs = append(out.ExternalIPs, externalIPs(nic)...)
	}
	slices.SortStableFunc(out.InternalIPs, v4First)
	slices.SortStableFunc(out.ExternalIPs, v4First)
	return out
}

// interfacesIn picks the interfaces in a network, which is a name or a path
// with a project: a VM may have one interface in network "default" of a shared
// VPC and another in its own project's. If none is in the project, because that
// is known by its number, the name alone decides.
func interfacesIn(network string, all []*compute.NetworkInterface) []*compute.NetworkInterface {
	for _, end := range []string{"/" + network, "/" + path.Base(network)} {
		var found []*compute.NetworkInterface
		for _, nic := range all {
			if strings.HasSuffix("/"+nic.Network, end) {
				found = append(found, nic)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// networkPath names the network together with its project.
func (c *Client) networkPath() string {
	return "projects/" + c.options.NetworkProject + "/global/networks/" + c.options.Network
}

func internalIPs(nic *compute.NetworkInterface) []netip.Addr {
	written := []string{nic.NetworkIP}
	if nic.Ipv6AccessType != "EXTERNAL" {
		written = append(written, nic.Ipv6Address)
	}
	return addresses(written)
}

// externalIPs reads the NAT addresses, which are empty for a VM that has none
// at the moment, and the external IPv6 ones.
func externalIPs(nic *compute.NetworkInterface) []netip.Addr {
	var written []string
	for _, access := range nic.AccessConfigs {
		written = append(written, access.NatIP)
	}
	for _, access := range nic.Ipv6AccessConfigs {
		written = append(written, access.ExternalIpv6)
	}
	return addresses(written)
}

// addresses drops what is empty or no address.
func addresses(written []string) []netip.Addr {
	var parsed []netip.Addr
	for _, w := range written {
		if addr, err := netip.ParseAddr(w); err == nil && !slices.Contains(parsed, addr) {
			parsed = append(parsed, addr)
		}
	}
	return parsed
}

func v4First(a, b netip.Addr) int { return a.BitLen() - b.BitLen() }

// Instance reads one instance, past any cache.
func (c *Client) Instance(ctx context.Context, id ProviderID) (Instance, error) {
	t := target{"instances.get", "projects/" + id.Project + "/zones/" + id.Zone + "/instances/" + id.Name}
	var found *compute.Instance
	err := c.call(ctx, t, c.options.RequestTimeout, func(ctx context.Context) (err error) {
		found, err = c.service.Instances.Get(id.Project, id.Zone, id.Name).Context(ctx).Do()
		return err
	})
	if err != nil {
		return Instance{}, err
	}
	return instanceOf(id.Project, c.networkPath(), found), nil
}

// ListInstances reads all instances of the project, in one request per 500. A
// list with holes, because a zone could not be reached, is an error.
func (c *Client) ListInstances(ctx context.Context) ([]Instance, error) {
	t := target{"instances.aggregatedList", "projects/" + c.options.Project + "/aggregated/instances"}
	request := c.service.Instances.AggregatedList(c.options.Project).MaxResults(maxPage)
	var all []Instance
	for {
		var list *compute.InstanceAggregatedList
		err := c.call(ctx, t, c.options.RequestTimeout, func(ctx context.Context) (err error) {
			if list, err = request.Context(ctx).Do(); err == nil {
				err = holes(list)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, zone := range list.Items {
			for _, in := range zone.Instances {
				all = append(all, instanceOf(c.options.Project, c.networkPath(), in))
			}
		}
		if list.NextPageToken == "" {
			return all, nil
		}
		request.PageToken(list.NextPageToken)
	}
}

// holes returns an error if zones are missing from the list. A zone without
// instances carries a warning too, which is no hole.
func holes(list *compute.InstanceAggregatedList) error {
	unreachable := slices.Clone(list.Unreachables)
	for scope, zone := range list.Items {
		if zone.Warning != nil && zone.Warning.Code != "NO_RESULTS_ON_PAGE" {
			unreachable = append(unreachable, scope+": "+zone.Warning.Message)
		}
	}
	if len(unreachable) == 0 {
		return nil
	}
	slices.Sort(unreachable)
	return fmt.Errorf("the list of instances is incomplete: %s", strings.Join(unreachable, ", "))
}
