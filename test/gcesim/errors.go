package gcesim

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// apiError is an error of the Compute API.
type apiError struct {
	status  int
	reason  string
	message string
}

func (e *apiError) Error() string { return e.message }

// MarshalJSON writes the body of the reply.
func (e *apiError) MarshalJSON() ([]byte, error) {
	type item struct {
		Message string `json:"message"`
		Domain  string `json:"domain"`
		Reason  string `json:"reason"`
	}
	type body struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Errors  []item `json:"errors"`
		Status  string `json:"status,omitempty"`
	}
	domain := "global"
	if e.reason == "rateLimitExceeded" {
		domain = "usageLimits"
	}
	return json.Marshal(map[string]body{"error": {
		Code: e.status, Message: e.message, Errors: []item{{e.message, domain, e.reason}}, Status: canonicalStatus[e.status],
	}})
}

// canonicalStatus is part of errors of the API's front end only.
var canonicalStatus = map[int]string{http.StatusServiceUnavailable: "UNAVAILABLE", http.StatusTooManyRequests: "RESOURCE_EXHAUSTED"}

func notFound(resource string) *apiError {
	return &apiError{http.StatusNotFound, "notFound", fmt.Sprintf("The resource '%s' was not found", resource)}
}

func alreadyExists(resource string) *apiError {
	return &apiError{http.StatusConflict, "alreadyExists", fmt.Sprintf("The resource '%s' already exists", resource)}
}

func notReady(resource string) *apiError {
	return &apiError{http.StatusBadRequest, "resourceNotReady", fmt.Sprintf("The resource '%s' is not ready", resource)}
}

func forbidden(permission, resource string) *apiError {
	return &apiError{http.StatusForbidden, "forbidden", fmt.Sprintf("Required '%s' permission for '%s'", permission, resource)}
}

func quotaExceeded(limit int) *apiError {
	return &apiError{http.StatusForbidden, "quotaExceeded", fmt.Sprintf("Quota 'FIREWALLS' exceeded.  Limit: %d.0 globally.", limit)}
}

func rateLimited(status int) *apiError {
	return &apiError{status, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service 'compute.googleapis.com'."}
}

func unavailable() *apiError {
	return &apiError{http.StatusServiceUnavailable, "backendError", "The service is currently unavailable."}
}

// invalidField is the reply to an invalid value.
func invalidField(field, value, why string) *apiError {
	return &apiError{http.StatusBadRequest, "invalid", fmt.Sprintf("Invalid value for field '%s': '%s'. %s", field, value, why)}
}

func invalid(format string, args ...any) *apiError {
	return &apiError{http.StatusBadRequest, "invalid", fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *apiError {
	return &apiError{http.StatusBadRequest, "badRequest", fmt.Sprintf(format, args...)}
}
