package gcesim

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strings"
)

// Numbers of the projects: the metadata server names projects by number, and the Compute API
// accepts numbers as well as ids.
const (
	projectNumber        = "100000000001"
	networkProjectNumber = "100000000002"
)

// withProjectID replaces a project's number in "projects/N/…" by its id.
func (s *Sim) withProjectID(path string) string {
	project, rest, _ := strings.Cut(strings.TrimPrefix(path, "projects/"), "/")
	return "projects/" + s.projectID(project) + "/" + rest
}

// projectID returns the id for a project's number or id.
func (s *Sim) projectID(project string) string {
	switch project {
	case s.projectNumberOf(s.config.NetworkProject):
		return s.config.NetworkProject
	case projectNumber:
		return s.config.Project
	}
	return project
}

func (s *Sim) projectNumberOf(project string) string {
	if project == s.config.Project {
		return projectNumber
	}
	return networkProjectNumber
}

// object is a reply, or a part of one, that the simulator does not read.
type object map[string]any

func (s *Sim) getProject(c *call) (any, *apiError) {
	quota := object{"metric": "FIREWALLS", "limit": *s.settings.FirewallQuota, "usage": len(s.firewalls)}
	return object{
		"kind": "compute#project", "id": s.projectNumberOf(c.project), "name": c.project,
		"quotas": []object{quota}, "selfLink": selfLinkBase + "projects/" + c.project,
	}, nil
}

// getXpnHost returns an empty project if there is no shared VPC.
func (s *Sim) getXpnHost(c *call) (any, *apiError) {
	if c.project == s.config.NetworkProject {
		return object{"kind": "compute#project"}, nil
	}
	host := s.config.NetworkProject
	return object{"kind": "compute#project", "id": s.projectNumberOf(host), "name": host, "selfLink": selfLinkBase + "projects/" + host}, nil
}

func (s *Sim) listNetworks(c *call) (any, *apiError) {
	var items []object
	if c.project == s.config.NetworkProject {
		for _, name := range s.networks() {
			items = append(items, s.network(c.project, name))
		}
	}
	return listReply(c, "compute#networkList", "projects/"+c.project+"/global/networks", items, objectName)
}

func (s *Sim) getNetwork(c *call) (any, *apiError) {
	if c.project != s.config.NetworkProject || !slices.Contains(s.networks(), c.name) {
		return nil, notFound("projects/" + c.project + "/global/networks/" + c.name)
	}
	return s.network(c.project, c.name), nil
}

// networks returns the names of all networks.
func (s *Sim) networks() []string {
	names := []string{s.config.Network}
	for _, instance := range s.instances {
		for _, nic := range instance.Interfaces() {
			names = append(names, nic.Network)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (s *Sim) network(project, name string) object {
	path := "projects/" + project + "/global/networks/" + name
	return object{"kind": "compute#network", "id": idOf(path), "name": name, "autoCreateSubnetworks": false, "selfLink": selfLinkBase + path}
}

// getSubnetwork serves one subnetwork per network and region, with the network's name.
func (s *Sim) getSubnetwork(c *call) (any, *apiError) {
	region := c.http.PathValue("region")
	path := "projects/" + c.project + "/regions/" + region + "/subnetworks/" + c.name
	inRegion := func(zone string) bool { return regionOf(zone) == region }
	if c.project != s.config.NetworkProject || !slices.Contains(s.networks(), c.name) || !slices.ContainsFunc(s.zones(), inRegion) {
		return nil, notFound(path)
	}
	return object{
		"kind": "compute#subnetwork", "id": idOf(path), "name": c.name, "selfLink": selfLinkBase + path,
		"network": selfLinkBase + "projects/" + c.project + "/global/networks/" + c.name,
		"region":  selfLinkBase + "projects/" + c.project + "/regions/" + region,
	}, nil
}

// zones returns the names of all zones.
func (s *Sim) zones() []string {
	zones := slices.Clone(s.config.Zones)
	for _, instance := range s.instances {
		zones = append(zones, instance.Zone)
	}
	slices.Sort(zones)
	return slices.Compact(zones)
}

func (s *Sim) zone(project, name string) object {
	path := "projects/" + project + "/zones/" + name
	return object{
		"kind": "compute#zone", "id": idOf(path), "name": name, "status": "UP", "selfLink": selfLinkBase + path,
		"region": selfLinkBase + "projects/" + project + "/regions/" + regionOf(name),
	}
}

func (s *Sim) listZones(c *call) (any, *apiError) {
	var items []object
	for _, name := range s.zones() {
		items = append(items, s.zone(c.project, name))
	}
	return listReply(c, "compute#zoneList", "projects/"+c.project+"/zones", items, objectName)
}

func (s *Sim) getZone(c *call) (any, *apiError) {
	if !slices.Contains(s.zones(), c.name) {
		return nil, notFound("projects/" + c.project + "/zones/" + c.name)
	}
	return s.zone(c.project, c.name), nil
}

func (s *Sim) listInstances(c *call) (any, *apiError) {
	zone := c.http.PathValue("zone")
	path := "projects/" + c.project + "/zones/" + zone
	if !slices.Contains(s.zones(), zone) {
		return nil, notFound(path)
	}
	var items []object
	for _, instance := range s.sortedInstances(c.project) {
		if instance.Zone == zone {
			items = append(items, s.instance(instance))
		}
	}
	return listReply(c, "compute#instanceList", path+"/instances", items, objectName)
}

func (s *Sim) getInstance(c *call) (any, *apiError) {
	zone := c.http.PathValue("zone")
	for _, instance := range s.sortedInstances(c.project) {
		if instance.Zone == zone && instance.Name == c.name {
			return s.instance(instance), nil
		}
	}
	return nil, notFound("projects/" + c.project + "/zones/" + zone + "/instances/" + c.name)
}

// aggregateInstances lists every zone; an empty one has GCE's warning.
func (s *Sim) aggregateInstances(c *call) (any, *apiError) {
	var all []object
	for _, instance := range s.sortedInstances(c.project) {
		all = append(all, s.instance(instance))
	}
	kept, failure := filterItems(c.http.FormValue("filter"), all)
	if failure != nil {
		return nil, failure
	}
	page, next, failure := cutPage(c, kept, func(o object) string { return o["zone"].(string) + "/" + objectName(o) })
	if failure != nil {
		return nil, failure
	}
	items := map[string]object{}
	for _, zone := range s.zones() {
		scope := "zones/" + zone
		inZone := slices.DeleteFunc(slices.Clone(page), func(o object) bool { return !strings.HasSuffix(o["zone"].(string), "/"+scope) })
		items[scope] = object{"instances": inZone}
		if len(inZone) == 0 {
			items[scope] = object{"warning": object{
				"code": "NO_RESULTS_ON_PAGE", "message": "There are no results for scope '" + scope + "' on this page.",
				"data": []object{{"key": "scope", "value": scope}},
			}}
		}
	}
	path := "projects/" + c.project + "/aggregated/instances"
	reply := object{"kind": "compute#instanceAggregatedList", "id": path, "items": items, "selfLink": selfLinkBase + path}
	if next != "" {
		reply["nextPageToken"] = next
	}
	return reply, nil
}

// sortedInstances returns the instances of a project by zone and name.
func (s *Sim) sortedInstances(project string) []Instance {
	if project != s.config.Project {
		return nil
	}
	return slices.SortedFunc(slices.Values(s.instances), func(a, b Instance) int {
		return cmp.Or(strings.Compare(a.Zone, b.Zone), strings.Compare(a.Name, b.Name))
	})
}

func (s *Sim) instance(in Instance) object {
	zone := "projects/" + s.config.Project + "/zones/" + in.Zone
	path := zone + "/instances/" + in.Name
	reply := object{
		"kind": "compute#instance", "id": idOf(path), "name": in.Name, "status": in.Status,
		"zone": selfLinkBase + zone, "machineType": selfLinkBase + zone + "/machineTypes/" + in.MachineType,
		"tags":              object{"items": in.Tags, "fingerprint": "c2ltdWxhdGVk"},
		"networkInterfaces": s.nics(in), "selfLink": selfLinkBase + path,
	}
	if in.Hostname != "" {
		reply["hostname"] = in.Hostname
	}
	return reply
}

func (s *Sim) nics(in Instance) []object {
	var nics []object
	for n, nic := range in.Interfaces() {
		access := object{"kind": "compute#accessConfig", "type": "ONE_TO_ONE_NAT", "name": "External NAT"}
		if nic.NatIP != "" {
			access["natIP"] = nic.NatIP
		}
		reply := object{
			"kind": "compute#networkInterface", "name": "nic" + string(rune('0'+n)), "networkIP": nic.NetworkIP,
			"network":       selfLinkBase + "projects/" + s.config.NetworkProject + "/global/networks/" + nic.Network,
			"accessConfigs": []object{access}, "stackType": "IPV4_ONLY",
		}
		if nic.IPv6Address != "" || nic.ExternalIPv6 != "" {
			reply["stackType"] = "IPV4_IPV6"
		}
		if nic.IPv6Address != "" {
			reply["ipv6Address"], reply["ipv6AccessType"] = nic.IPv6Address, "INTERNAL"
		}
		if nic.ExternalIPv6 != "" {
			reply["ipv6AccessType"] = "EXTERNAL"
			reply["ipv6AccessConfigs"] = []object{{
				"kind": "compute#accessConfig", "type": "DIRECT_IPV6", "name": "external-ipv6",
				"externalIpv6": nic.ExternalIPv6, "externalIpv6PrefixLength": 96,
			}}
		}
		nics = append(nics, reply)
	}
	return nics
}

func objectName(o object) string { return o["name"].(string) }

// idOf derives an id from a path.
func idOf(path string) string {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(path)) // Never fails.
	return formatID(hash.Sum64())
}

// regionOf returns a zone's name without its last part.
func regionOf(zone string) string {
	if i := strings.LastIndex(zone, "-"); i > 0 {
		return zone[:i]
	}
	return zone
}
