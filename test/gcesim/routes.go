package gcesim

import (
	"fmt"
	"net/http"
)

const (
	basePath = "/compute/v1/"
	// selfLinkBase is the prefix of every link in replies, whatever the server's address.
	selfLinkBase = "https://www.googleapis.com/compute/v1/"
)

// routes returns all that the simulator serves.
func (s *Sim) routes() *http.ServeMux {
	const firewalls, operations = "global/firewalls", "global/operations"
	mux := http.NewServeMux()
	for _, api := range []struct {
		method, path, verb string
		handle             handler
	}{
		{"GET", "", "projects.get", (*Sim).getProject},
		{"GET", "/getXpnHost", "projects.getXpnHost", (*Sim).getXpnHost},
		{"GET", "/" + firewalls, "firewalls.list", (*Sim).listFirewalls},
		{"POST", "/" + firewalls, "firewalls.insert", (*Sim).insertFirewall},
		{"GET", "/" + firewalls + "/{name}", "firewalls.get", (*Sim).getFirewall},
		{"PATCH", "/" + firewalls + "/{name}", "firewalls.patch", (*Sim).patchFirewall},
		{"PUT", "/" + firewalls + "/{name}", "firewalls.update", (*Sim).updateFirewall},
		{"DELETE", "/" + firewalls + "/{name}", "firewalls.delete", (*Sim).deleteFirewall},
		{"GET", "/" + operations + "/{name}", "globalOperations.get", (*Sim).getOperation},
		{"POST", "/" + operations + "/{name}/wait", "globalOperations.wait", (*Sim).getOperation},
		{"GET", "/global/networks", "networks.list", (*Sim).listNetworks},
		{"GET", "/global/networks/{name}", "networks.get", (*Sim).getNetwork},
		{"GET", "/regions/{region}/subnetworks/{name}", "subnetworks.get", (*Sim).getSubnetwork},
		{"GET", "/zones", "zones.list", (*Sim).listZones},
		{"GET", "/zones/{name}", "zones.get", (*Sim).getZone},
		{"GET", "/zones/{zone}/instances", "instances.list", (*Sim).listInstances},
		{"GET", "/zones/{zone}/instances/{name}", "instances.get", (*Sim).getInstance},
		{"GET", "/aggregated/instances", "instances.aggregatedList", (*Sim).aggregateInstances},
	} {
		mux.HandleFunc(api.method+" "+basePath+"projects/{project}"+api.path, func(w http.ResponseWriter, r *http.Request) {
			s.serve(w, r, api.verb, api.handle)
		})
	}
	s.metadataRoutes(mux)
	s.adminRoutes(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		message := fmt.Sprintf("The requested URL %s was not found on this server.", r.URL.Path)
		writeJSON(w, http.StatusNotFound, &apiError{http.StatusNotFound, "notFound", message})
	})
	return mux
}
