package gcesim

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FaultKind is a kind of fault.
type FaultKind string

// The kinds of faults.
const (
	// FaultLatency delays the request by Fault.Latency and then serves it.
	FaultLatency FaultKind = "latency"
	// FaultForbidden replies 403 forbidden.
	FaultForbidden FaultKind = "forbidden"
	// FaultQuota replies 403 quotaExceeded.
	FaultQuota FaultKind = "quotaExceeded"
	// FaultNotFound replies 404.
	FaultNotFound FaultKind = "notFound"
	// FaultExists replies 409.
	FaultExists FaultKind = "alreadyExists"
	// FaultNotReady replies 400 resourceNotReady.
	FaultNotReady FaultKind = "resourceNotReady"
	// FaultRateLimit replies 429, FaultRateLimit403 replies 403, both with the
	// reason rateLimitExceeded.
	FaultRateLimit    FaultKind = "rateLimitExceeded"
	FaultRateLimit403 FaultKind = "rateLimitExceeded403"
	// FaultUnavailable replies 503.
	FaultUnavailable FaultKind = "unavailable"
	// FaultOperation accepts a change; its operation then ends with an error
	// with Fault.Code and changes nothing.
	FaultOperation FaultKind = "operationError"
	// FaultLostReply serves the request and drops the connection.
	FaultLostReply FaultKind = "lostReply"
)

// FaultKinds lists all kinds.
var FaultKinds = []FaultKind{FaultLatency, FaultForbidden, FaultQuota, FaultNotFound, FaultExists, FaultNotReady,
	FaultRateLimit, FaultRateLimit403, FaultUnavailable, FaultOperation, FaultLostReply}

// Fault makes matching requests fail.
type Fault struct {
	Kind FaultKind `json:"kind"`
	// Verb is a method of the API, such as firewalls.insert, or a pattern as
	// of path.Match. Empty: all.
	Verb string `json:"verb,omitempty"`
	// Resource is the name, or a pattern, of the requested rule, instance or
	// operation. Empty: all.
	Resource string `json:"resource,omitempty"`
	// Count is how many requests the fault affects. Zero: all until it is cleared.
	Count int `json:"count,omitempty"`
	// Latency is for FaultLatency.
	Latency metav1.Duration `json:"latency,omitzero"`
	// Code is for FaultOperation. Default: INTERNAL_ERROR.
	Code string `json:"code,omitempty"`
}

func (f Fault) validate() error {
	if !slices.Contains(FaultKinds, f.Kind) {
		return fmt.Errorf("unknown kind of fault %q, known are %v", f.Kind, FaultKinds)
	}
	for _, pattern := range []string{f.Verb, f.Resource} {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	return nil
}

// takeFaults returns the faults that affect a request, and counts them down.
func (s *Sim) takeFaults(verb, resource string) []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	var hit []Fault
	s.faults = slices.DeleteFunc(s.faults, func(f *Fault) bool {
		if !f.matches(verb, resource) {
			return false
		}
		hit = append(hit, *f)
		f.Count--
		return f.Count == 0
	})
	return hit
}

func (f Fault) matches(verb, resource string) bool {
	return glob(f.Verb, verb) && glob(f.Resource, resource)
}

// glob reports whether a pattern matches. Patterns are validated when a fault is added.
func glob(pattern, s string) bool {
	matched, _ := path.Match(pattern, s)
	return pattern == "" || matched
}

// reply returns the error of the fault; nil if the fault has none.
func (f Fault) reply(verb, resource string, quota int) *apiError {
	switch f.Kind {
	case FaultForbidden:
		return forbidden("compute."+permission(verb), resource)
	case FaultQuota:
		return quotaExceeded(quota)
	case FaultNotFound:
		return notFound(resource)
	case FaultExists:
		return alreadyExists(resource)
	case FaultNotReady:
		return notReady(resource)
	case FaultRateLimit:
		return rateLimited(http.StatusTooManyRequests)
	case FaultRateLimit403:
		return rateLimited(http.StatusForbidden)
	case FaultUnavailable:
		return unavailable()
	}
	return nil
}

// permission returns the IAM permission for a verb.
func permission(verb string) string {
	return strings.NewReplacer(".insert", ".create", ".patch", ".update", ".aggregatedList", ".list", ".wait", ".get").Replace(verb)
}
