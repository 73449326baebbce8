package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// request is one that hostport-ccm has sent to the API server.
type request struct {
	// Verb is as in RBAC; a write by dry run has "dry-run".
	Verb string
	// Resource is with its subresource: services/status.
	Resource        string
	Namespace, Name string
	// Refused is the HTTP status of an error, else 0.
	Refused int
}

func (r request) isWrite() bool {
	return slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, r.Verb)
}

// auditEvent is the part of an audit.k8s.io/v1 Event that is read.
type auditEvent struct {
	Verb, RequestURI string
	ObjectRef        struct{ APIGroup, Resource, Subresource, Namespace, Name string }
	ResponseStatus   struct{ Code int }
}

// parseAudit returns the requests in the complete lines of an audit log, and how long these are. It
// leaves out leader election, whose event is the only one in the namespace of hostport-ccm, and the
// authorisation of those who read the metrics.
func parseAudit(log []byte) (requests []request, length int, err error) {
	for {
		line, _, found := bytes.Cut(log[length:], []byte("\n"))
		if !found {
			return requests, length, nil
		}
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, 0, fmt.Errorf("audit log: %w: %s", err, line)
		}
		length += len(line) + 1
		switch e.ObjectRef.APIGroup {
		case "coordination.k8s.io", "authentication.k8s.io", "authorization.k8s.io":
			continue
		}
		if e.ObjectRef.Resource == "events" && e.ObjectRef.Namespace == cluster.ProductNamespace {
			continue
		}
		requests = append(requests, e.request())
	}
}

func (e auditEvent) request() request {
	r := request{Verb: e.Verb, Resource: e.ObjectRef.Resource, Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name}
	if e.ObjectRef.Subresource != "" {
		r.Resource += "/" + e.ObjectRef.Subresource
	}
	if strings.Contains(e.RequestURI, "dryRun=All") {
		r.Verb = "dry-run"
	}
	if e.ResponseStatus.Code >= http.StatusBadRequest {
		r.Refused = e.ResponseStatus.Code
	}
	return r
}

// auditReader reads what has been appended to an audit log since the last call.
type auditReader struct {
	path   string
	offset int64
}

func (a *auditReader) next() ([]request, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(a.offset, io.SeekStart); err != nil {
		return nil, err
	}
	log, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	requests, length, err := parseAudit(log)
	a.offset += int64(length)
	return requests, err
}

// counts are numbers of requests by what they are for: "patch services/status", or with an error,
// "create services (status 403)".
type counts map[string]int

func (c counts) total() int {
	total := 0
	for _, n := range c {
		total += n
	}
	return total
}

// String lists the counts, the largest first.
func (c counts) String() string {
	kinds := slices.SortedFunc(maps.Keys(c), func(a, b string) int {
		return cmp.Or(cmp.Compare(c[b], c[a]), strings.Compare(a, b))
	})
	var parts []string
	for _, kind := range kinds {
		parts = append(parts, fmt.Sprintf("%d %s", c[kind], kind))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// count counts the requests that are counted.
func count(requests []request, counted func(request) bool) counts {
	c := counts{}
	for _, r := range requests {
		kind := r.Verb + " " + r.Resource
		if r.Refused > 0 {
			kind += fmt.Sprintf(" (status %d)", r.Refused)
		}
		if counted(r) {
			c[kind]++
		}
	}
	return c
}

// isRead reports whether it asks for objects. Watches do not count: informers renew them whenever the
// API server ends one, as it does with those that it finds slow.
func isRead(r request) bool { return !r.isWrite() && r.Verb != "watch" }

// mostStatusWrites returns the largest number of writes to the status of one object among the
// Services that are no mirrors.
func mostStatusWrites(requests []request) int {
	perService, most := map[string]int{}, 0
	for _, r := range requests {
		if r.isWrite() && r.Resource == "services/status" && !strings.HasPrefix(r.Name, "hostport-") {
			perService[r.Namespace+"/"+r.Name]++
			most = max(most, perService[r.Namespace+"/"+r.Name])
		}
	}
	return most
}
