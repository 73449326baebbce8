package gcesim

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
)

const metadataPath = "/computeMetadata/v1/"

func formatID(id uint64) string { return strconv.FormatUint(id, 10) }

// metadataRoutes serves the metadata server, which VMs reach at 169.254.169.254.
func (s *Sim) metadataRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+metadataPath, s.serveMetadata)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google") // Clients detect GCE by this header.
		_, _ = fmt.Fprintln(w, "computeMetadata/")
	})
}

func (s *Sim) serveMetadata(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	w.Header().Set("Content-Type", "application/text")
	if r.Header.Get("Metadata-Flavor") != "Google" || r.Header.Get("X-Forwarded-For") != "" {
		http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
		return
	}
	value, found := s.metadata(r)[strings.TrimPrefix(r.URL.Path, metadataPath)]
	if !found {
		http.NotFound(w, r)
		return
	}
	_, _ = fmt.Fprint(w, value)
}

// metadata returns all values for the VM that asks, by path.
func (s *Sim) metadata(r *http.Request) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	project, account := s.config.Project, "instance/service-accounts/default/"
	values := map[string]string{
		"project/project-id":         project,
		"project/numeric-project-id": s.projectNumberOf(project),
		account + "email":            "simulator@" + project + ".iam.gserviceaccount.com",
		account + "scopes":           "https://www.googleapis.com/auth/cloud-platform",
		account + "token":            `{"access_token":"simulated","expires_in":3600,"token_type":"Bearer"}`,
	}
	if in, found := s.askedBy(host); found {
		tags, _ := json.Marshal(in.Tags) // Strings always marshal.
		values["instance/id"] = idOf("projects/" + project + "/zones/" + in.Zone + "/instances/" + in.Name)
		values["instance/name"] = in.Name
		values["instance/hostname"] = orElse(in.Hostname, in.Name+"."+in.Zone+".c."+project+".internal")
		values["instance/zone"] = "projects/" + s.projectNumberOf(project) + "/zones/" + in.Zone
		values["instance/tags"] = string(tags)
		nic := "instance/network-interfaces/0/"
		values[nic+"network"] = "projects/" + s.projectNumberOf(s.config.NetworkProject) + "/networks/" + in.Network
		values[nic+"ip"] = in.NetworkIP
		values[nic+"access-configs/0/external-ip"] = in.NatIP
	}
	return values
}

// askedBy returns the VM with an address. Other clients, such as a test on the loopback interface,
// count as the first VM.
func (s *Sim) askedBy(addr string) (Instance, bool) {
	for _, in := range s.instances {
		if in.NetworkIP == addr {
			return in, true
		}
	}
	if len(s.instances) == 0 {
		return Instance{}, false
	}
	return s.instances[0], true
}
