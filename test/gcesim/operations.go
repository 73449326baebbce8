package gcesim

import (
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// maxWait limits how long globalOperations.wait waits.
const maxWait = 2 * time.Minute

// operation is an asynchronous change of a firewall rule.
type operation struct {
	id            uint64
	name          string
	operationType string
	project       string
	target        string // Path of the rule.
	targetID      uint64
	begun         time.Time
	latency       time.Duration
	ended         time.Time     // Zero until done.
	done          chan struct{} // Closed when done.
	failure       *operationFailure
}

type operationFailure struct{ code, message string }

// operationReply is an operation as the API returns it.
type operationReply struct {
	Kind                string           `json:"kind"`
	ID                  uint64           `json:"id,string"`
	Name                string           `json:"name"`
	OperationType       string           `json:"operationType"`
	TargetLink          string           `json:"targetLink"`
	TargetID            uint64           `json:"targetId,string"`
	Status              string           `json:"status"`
	User                string           `json:"user"`
	Progress            int              `json:"progress"`
	InsertTime          string           `json:"insertTime"`
	StartTime           string           `json:"startTime,omitempty"`
	EndTime             string           `json:"endTime,omitempty"`
	Error               *operationErrors `json:"error,omitempty"`
	HTTPErrorStatusCode int              `json:"httpErrorStatusCode,omitempty"`
	HTTPErrorMessage    string           `json:"httpErrorMessage,omitempty"`
	SelfLink            string           `json:"selfLink"`
}

type operationErrors struct {
	Errors []operationErrorItem `json:"errors"`
}

type operationErrorItem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// change starts an operation on the rule that the call names. It calls apply when the operation
// succeeds.
func (s *Sim) change(c *call, operationType string, targetID uint64, apply func()) *operation {
	op := &operation{
		id: s.newID(), operationType: operationType, project: c.project, targetID: targetID,
		target: firewallPath(c.project, c.name), begun: s.clock.Now(), latency: s.settings.OperationLatency.Duration, done: make(chan struct{}),
	}
	op.name = "operation-" + strconv.FormatInt(op.begun.UnixMilli(), 10) + "-" + strconv.FormatUint(op.id, 16)
	if c.operationFault != nil {
		code := orElse(c.operationFault.Code, "INTERNAL_ERROR")
		op.failure = &operationFailure{code, "The operation failed by an injected fault: " + code}
	}
	s.operations[op.name] = op
	if id := c.http.FormValue("requestId"); id != "" {
		s.byRequest[id] = op
	}
	s.busy[op.target] = op
	return op.startOn(s, apply)
}

// startOn ends the operation after its latency.
func (op *operation) startOn(s *Sim, apply func()) *operation {
	end := func() {
		delete(s.busy, op.target)
		op.ended = s.clock.Now()
		if op.failure == nil {
			apply()
			s.onChange(s.snapshot())
		}
		close(op.done)
	}
	if op.latency == 0 {
		end()
		return op
	}
	// A fake clock calls back with its lock held, so the end runs in another goroutine.
	s.clock.AfterFunc(op.latency, func() {
		go func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			end()
		}()
	})
	return op
}

// seen returns the operation of an earlier call with the same request id; nil if there is none.
func (s *Sim) seen(c *call) (*operation, *apiError) {
	id := c.http.FormValue("requestId")
	if id == "" {
		return nil, nil
	}
	if parsed, err := uuid.Parse(id); err != nil || parsed == uuid.Nil {
		return nil, invalidField("requestId", id, "Must be a UUID in the standard format, and not zero.")
	}
	return s.byRequest[id], nil
}

// accepted returns the reply to a change: the operation in its first state, even without latency.
func (s *Sim) accepted(op *operation) operationReply {
	reply := op.reply(s.clock.Now())
	if reply.Status == "DONE" && op.latency == 0 {
		reply.Status, reply.Progress, reply.StartTime, reply.EndTime = "PENDING", 0, "", ""
		reply.Error, reply.HTTPErrorStatusCode, reply.HTTPErrorMessage = nil, 0, ""
	}
	return reply
}

// reply returns the operation at a time: PENDING for the first half of its latency, then RUNNING,
// then DONE.
func (op *operation) reply(now time.Time) operationReply {
	reply := operationReply{
		Kind: "compute#operation", ID: op.id, Name: op.name, OperationType: op.operationType,
		TargetLink: selfLinkBase + op.target, TargetID: op.targetID, Status: "PENDING",
		User: "simulator@" + op.project + ".iam.gserviceaccount.com", InsertTime: timestamp(op.begun),
		SelfLink: selfLinkBase + "projects/" + op.project + "/global/operations/" + op.name,
	}
	if started := op.begun.Add(op.latency / 2); !now.Before(started) {
		reply.Status, reply.StartTime, reply.Progress = "RUNNING", timestamp(started), 50
	}
	if !op.ended.IsZero() {
		reply.Status, reply.EndTime, reply.Progress = "DONE", timestamp(op.ended), 100
		op.addFailure(&reply)
	}
	return reply
}

func (op *operation) addFailure(reply *operationReply) {
	if op.failure == nil {
		return
	}
	status, known := statusOfCode[op.failure.code]
	if !known {
		status = http.StatusInternalServerError
	}
	reply.HTTPErrorStatusCode, reply.HTTPErrorMessage = status, httpErrorMessage(status)
	reply.Error = &operationErrors{[]operationErrorItem{{op.failure.code, op.failure.message}}}
}

var statusOfCode = map[string]int{
	"QUOTA_EXCEEDED":      http.StatusForbidden,
	"PERMISSIONS_ERROR":   http.StatusForbidden,
	"RESOURCE_NOT_FOUND":  http.StatusNotFound,
	"RESOURCE_NOT_READY":  http.StatusBadRequest,
	"RATE_LIMIT_EXCEEDED": http.StatusForbidden,
}

// httpErrorMessage returns the status text in capitals, as GCE does.
func httpErrorMessage(status int) string {
	return map[int]string{
		http.StatusForbidden: "FORBIDDEN", http.StatusNotFound: "NOT FOUND", http.StatusBadRequest: "BAD REQUEST",
	}[status]
}

func (s *Sim) getOperation(c *call) (any, *apiError) {
	op, found := s.operations[c.name]
	if !found || op.project != c.project {
		return nil, notFound("projects/" + c.project + "/global/operations/" + c.name)
	}
	return op.reply(s.clock.Now()), nil
}

// awaitOperation returns when the operation is done or does not exist, after maxWait, or when the
// client cancels its request.
func (s *Sim) awaitOperation(r *http.Request, name string) {
	s.mu.Lock()
	op, found := s.operations[name]
	s.mu.Unlock()
	if !found {
		return
	}
	timeout := s.clock.NewTimer(maxWait)
	defer timeout.Stop()
	select {
	case <-op.done:
	case <-timeout.C():
	case <-r.Context().Done():
	}
}

func (s *Sim) newID() uint64 {
	s.lastID++
	return s.lastID
}

func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000-07:00") }
