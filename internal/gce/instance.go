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

// Instance is a VM as far as Kubernetes needs it.
type Instance struct {
	ID ProviderID
	// Hostname is the VM's custom host name; usually empty.
	Hostname string
	// MachineType is the name of the type: e2-small.
	MachineType string
	// Status is that of the API: RUNNING, STOPPED, TERMINATED, …
	Status string
	// Tags are the network tags, sorted.
	Tags []string
	// InternalIPs and ExternalIPs are the addresses of the interfaces in the
	// configured network, IPv4 before IPv6. Either may be empty.
	InternalIPs, ExternalIPs []netip.Addr
}

// ProviderID returns the id in the form of a Node's spec.providerID.
func (i Instance) ProviderID() string { return i.ID.String() }

// Name returns the instance's name. A node's name up to its first dot is the same.
func (i Instance) Name() string { return i.ID.Name }

// Zone returns the zone's name.
func (i Instance) Zone() string { return i.ID.Zone }

// Region returns the region's name.
func (i Instance) Region() string { return i.ID.Region() }

// Shutdown reports whether the VM is off and not being started.
func (i Instance) Shutdown() bool {
	return slices.Contains([]string{"STOPPED", "TERMINATED", "SUSPENDED"}, i.Status)
}

// Instance reads one instance, without a cache.
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

// ListInstances reads all instances of the project, 500 per request. A list that
// is incomplete, because a zone is unreachable, is an error.
func (c *Client) ListInstances(ctx context.Context) ([]Instance, error) {
	t := target{"instances.aggregatedList", "projects/" + c.options.Project + "/aggregated/instances"}
	request := c.service.Instances.AggregatedList(c.options.Project).MaxResults(maxPage)
	var all []Instance
	for {
		var list *compute.InstanceAggregatedList
		err := c.call(ctx, t, c.options.RequestTimeout, func(ctx context.Context) (err error) {
			if list, err = request.Context(ctx).Do(); err == nil {
				err = checkComplete(list)
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

// checkComplete returns an error if zones are missing from the list. A zone
// without instances has a warning too.
func checkComplete(list *compute.InstanceAggregatedList) error {
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

// networkPath returns the network with its project.
func (c *Client) networkPath() string {
	return "projects/" + c.options.NetworkProject + "/global/networks/" + c.options.Network
}

// instanceOf converts an instance. It uses only the interfaces in network: the
// cluster cannot use addresses in another VPC.
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
	var internal, external []string
	for _, nic := range interfacesIn(network, in.NetworkInterfaces) {
		internal = append(internal, nic.NetworkIP)
		if nic.Ipv6AccessType != "EXTERNAL" {
			internal = append(internal, nic.Ipv6Address)
		}
		for _, access := range nic.AccessConfigs {
			external = append(external, access.NatIP) // Empty while the VM has none.
		}
		for _, access := range nic.Ipv6AccessConfigs {
			external = append(external, access.ExternalIpv6)
		}
	}
	out.InternalIPs, out.ExternalIPs = addresses(internal), addresses(external)
	return out
}

// interfacesIn returns the interfaces in a network, which is a path with a
// project: a VM may have one interface in network "default" of a shared VPC and
// another in that of its own project. If none is in that project, as it may be
// given by its number, the name of the network decides.
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

// addresses parses addresses, IPv4 first. It omits duplicates and what is empty
// or invalid.
func addresses(texts []string) []netip.Addr {
	var parsed []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(parsed, addr) {
			parsed = append(parsed, addr)
		}
	}
	slices.SortStableFunc(parsed, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return parsed
}
