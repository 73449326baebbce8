package gcesim

import (
	"encoding/json"
	"io"
	"net/http"
)

// AdminPath is the prefix of the admin API, which AdminClient uses:
//
//	GET    /_sim/state                     Snapshot
//	GET    /_sim/settings                  Settings
//	PATCH  /_sim/settings                  Settings, only what is to change
//	PUT    /_sim/instances/{zone}/{name}   Instance, added or replaced
//	PATCH  /_sim/instances/{zone}/{name}   Instance, only what is to change
//	DELETE /_sim/instances/{zone}/{name}
//	GET    /_sim/faults                    list of Fault
//	POST   /_sim/faults                    Fault, added
//	DELETE /_sim/faults                    all
//	GET    /_sim/requests                  list of Request
//	DELETE /_sim/requests                  all
//
// Errors are plain text with status 400.
const AdminPath = "/_sim/"

func (s *Sim) adminRoutes(mux *http.ServeMux) {
	get := func(pattern string, value func() any) {
		mux.HandleFunc("GET "+AdminPath+pattern, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, value()) })
	}
	do := func(method, pattern string, act func(*http.Request) error) {
		mux.HandleFunc(method+" "+AdminPath+pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := act(r); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	const instance = "instances/{zone}/{name}"
	get("state", func() any { return s.Snapshot() })
	get("settings", func() any { return s.Settings() })
	get("faults", func() any { return s.Faults() })
	get("requests", func() any { return s.Requests() })
	do("PATCH", "settings", s.adminSettings)
	do("PUT", instance, s.adminPutInstance)
	do("PATCH", instance, s.adminPatchInstance)
	do("DELETE", instance, func(r *http.Request) error { return s.RemoveInstance(r.PathValue("zone"), r.PathValue("name")) })
	do("POST", "faults", s.adminFault)
	do("DELETE", "faults", func(*http.Request) error { s.ClearFaults(); return nil })
	do("DELETE", "requests", func(*http.Request) error { s.ForgetRequests(); return nil })
}

func (s *Sim) adminSettings(r *http.Request) error {
	var settings Settings
	if err := strictJSON(r.Body, &settings); err != nil {
		return err
	}
	s.Set(settings)
	return nil
}

func (s *Sim) adminPutInstance(r *http.Request) error {
	var instance Instance
	if err := strictJSON(r.Body, &instance); err != nil {
		return err
	}
	instance.Zone, instance.Name = r.PathValue("zone"), r.PathValue("name")
	return s.PutInstance(instance)
}

// adminPatchInstance merges the body into the instance: fields that it does not contain stay.
func (s *Sim) adminPatchInstance(r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var decodeErr error
	err = s.UpdateInstance(r.PathValue("zone"), r.PathValue("name"), func(instance *Instance) {
		patched, mergeErr := mergePatch(instance, body)
		if decodeErr = mergeErr; decodeErr != nil {
			return
		}
		var next Instance
		if decodeErr = json.Unmarshal(patched, &next); decodeErr == nil {
			next.Zone, next.Name = instance.Zone, instance.Name
			*instance = next
		}
	})
	if decodeErr != nil {
		return decodeErr
	}
	return err
}

func (s *Sim) adminFault(r *http.Request) error {
	var fault Fault
	if err := strictJSON(r.Body, &fault); err != nil {
		return err
	}
	return s.AddFault(fault)
}

func strictJSON(r io.Reader, into any) error {
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
