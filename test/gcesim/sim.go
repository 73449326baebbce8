package gcesim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Clock is the clock of operations: clock.RealClock, or a fake one.
type Clock = clock.WithDelayedExecution

// Sim is a simulated project, or two projects with a shared VPC. Create it with New.
type Sim struct {
	mux    *http.ServeMux
	clock  Clock
	config Config // Its Settings and Instances are the initial ones.

	// onChange is called with mu held, so that an operation is DONE only after its
	// change is in force.
	onChange func(Snapshot)

	mu         sync.Mutex
	settings   Settings
	instances  []Instance
	firewalls  map[string]Firewall
	operations map[string]*operation
	byRequest  map[string]*operation
	busy       map[string]*operation // By name of the rule being changed.
	faults     []*Fault
	requests   []Request
	lastID     uint64
}

// New returns a simulator in the state of config. Operations run on clk; nil means real time.
// Unless it is nil, onChange is called with the first snapshot and with a new one for each change
// of firewall rules or instances, before a client can see the change. It must not call the Sim.
func New(config Config, clk Clock, onChange func(Snapshot)) (*Sim, error) {
	if clk == nil {
		clk = clock.RealClock{}
	}
	if onChange == nil {
		onChange = func(Snapshot) {}
	}
	config = config.withDefaults()
	s := &Sim{
		clock: clk, config: config, onChange: onChange, settings: config.Settings,
		firewalls: map[string]Firewall{}, operations: map[string]*operation{}, byRequest: map[string]*operation{}, busy: map[string]*operation{},
		lastID: uint64(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()),
	}
	for _, instance := range config.Instances {
		if err := instance.validate(); err != nil {
			return nil, err
		}
		s.instances = append(s.instances, instance)
	}
	s.mux = s.routes()
	s.onChange(s.snapshot())
	return s, nil
}

// Request is a request in the log.
type Request struct {
	// Verb is the API's method: firewalls.insert, instances.aggregatedList, …
	Verb string `json:"verb"`
	// Resource is the name of the requested object; empty for lists.
	Resource string `json:"resource,omitempty"`
	// Status is the HTTP status; zero if the reply was lost by a fault.
	Status int `json:"status"`
	// RequestID makes a change idempotent.
	RequestID string `json:"requestID,omitempty"`
}

// IsWrite reports whether the request is for a change.
func (r Request) IsWrite() bool {
	return slices.Contains([]string{"firewalls.insert", "firewalls.patch", "firewalls.update", "firewalls.delete"}, r.Verb)
}

// maxRequests limits the log of a long-running process.
const maxRequests = 10000

// call is a request of the Compute API that is being served.
type call struct {
	http *http.Request
	verb string
	// project is the project's id, even if the path has its number.
	project string
	// name is the name of the requested object; for an insert it is from the body.
	name string
	body []byte
	// operationFault is set if the operation has to end with an error.
	operationFault *Fault
}

// handler serves a call, with Sim.mu held.
type handler func(*Sim, *call) (any, *apiError)

// ServeHTTP implements http.Handler.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// serve applies the faults that match a call, and calls its handler.
func (s *Sim) serve(w http.ResponseWriter, r *http.Request, verb string, handle handler) {
	call, failure := s.newCall(r, verb)
	lost := false
	for _, fault := range s.takeFaults(verb, call.name) {
		switch fault.Kind {
		case FaultLatency:
			s.pause(r, fault.Latency.Duration)
		case FaultLostReply:
			lost = true
		case FaultOperation:
			call.operationFault = &fault
		default:
			failure = fault.reply(verb, call.resource(), *s.Settings().FirewallQuota)
		}
	}
	var reply any
	if failure == nil {
		reply, failure = s.handle(call, handle)
	}
	if lost {
		s.log(call, 0)
		panic(http.ErrAbortHandler)
	}
	status := http.StatusOK
	if failure != nil {
		status, reply = failure.status, failure
	}
	s.log(call, status)
	if r.FormValue("prettyPrint") == "false" { // The generated client sends it.
		writeBody(w, status, reply, compact)
		return
	}
	writeJSON(w, status, reply)
}

// newCall reads the request. The call is usable even with an error.
func (s *Sim) newCall(r *http.Request, verb string) (*call, *apiError) {
	c := &call{http: r, verb: verb, project: s.projectID(r.PathValue("project")), name: r.PathValue("name")}
	var err error
	if c.body, err = io.ReadAll(io.LimitReader(r.Body, 1<<20)); err != nil {
		return c, badRequest("reading the request: %v", err)
	}
	if verb == "firewalls.insert" {
		var named struct{ Name string }
		_ = json.Unmarshal(c.body, &named) // The handler reports errors.
		c.name = named.Name
	}
	if c.project != s.config.Project && c.project != s.config.NetworkProject {
		return c, notFound("projects/" + c.project)
	}
	return c, nil
}

// handle calls the handler with the lock held. It waits for an operation before, without the lock.
func (s *Sim) handle(c *call, handle handler) (any, *apiError) {
	if c.verb == "globalOperations.wait" {
		s.awaitOperation(c.http, c.name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return handle(s, c)
}

// pause waits for d, or until the client cancels its request.
func (s *Sim) pause(r *http.Request, d time.Duration) {
	select {
	case <-s.clock.After(d):
	case <-r.Context().Done():
	}
}

// resource returns the path of the requested object.
func (c *call) resource() string {
	path := strings.TrimPrefix(c.http.URL.Path, basePath)
	if c.verb == "firewalls.insert" && c.name != "" {
		path += "/" + c.name
	}
	return path
}

func (s *Sim) log(call *call, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) >= maxRequests {
		s.requests = slices.Delete(s.requests, 0, maxRequests/2)
	}
	s.requests = append(s.requests, Request{call.verb, call.name, status, call.http.FormValue("requestId")})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	writeBody(w, status, body, json.MarshalIndent)
}

// compact has the signature of json.MarshalIndent and ignores the indentation.
func compact(v any, _, _ string) ([]byte, error) { return json.Marshal(v) }

func writeBody(w http.ResponseWriter, status int, body any, marshal func(any, string, string) ([]byte, error)) {
	data, err := marshal(body, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("the reply %T does not marshal: %v", body, err))
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // An error means that the client has gone away.
}

// Client returns an HTTP client whose requests, to any host, are served by s
// without a network.
func (s *Sim) Client() *http.Client { return &http.Client{Transport: inProcess{s}} }

type inProcess struct{ handler http.Handler }

// RoundTrip serves the request in the caller's goroutine.
func (t inProcess) RoundTrip(r *http.Request) (reply *http.Response, err error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
			reply, err = nil, errors.New("connection reset by peer")
		}
	}()
	if r.Body == nil {
		r = r.Clone(r.Context())
		r.Body = http.NoBody
	}
	recorded := &recorder{header: http.Header{}}
	t.handler.ServeHTTP(recorded, r)
	if err := r.Context().Err(); err != nil {
		return nil, err // The client has cancelled its request.
	}
	return &http.Response{
		Status: http.StatusText(recorded.status), StatusCode: recorded.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: recorded.header, Body: io.NopCloser(&recorded.body), ContentLength: int64(recorded.body.Len()), Request: r,
	}, nil
}

// recorder is a minimal http.ResponseWriter.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) { r.status = status }

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.body.Write(p)
}
