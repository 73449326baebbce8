package gce

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/api/compute/v1"
	"google.golang.org/api/googleapi"
	cloudprovider "k8s.io/cloud-provider"
)

// Kind classifies errors by what a caller can do.
type Kind string

// The kinds.
const (
	// KindNotFound: the resource does not exist.
	KindNotFound Kind = "not found"
	// KindExists: a resource of the same name exists.
	KindExists Kind = "already exists"
	// KindForbidden: a permission or valid credentials are missing.
	KindForbidden Kind = "forbidden"
	// KindQuota: a quota of the project is used up.
	KindQuota Kind = "quota exceeded"
	// KindRateLimited: too many requests.
	KindRateLimited Kind = "rate limited"
	// KindNotReady: another change of the resource is in progress.
	KindNotReady Kind = "not ready"
	// KindTransient: a failure of the server or the network.
	KindTransient Kind = "transient"
	// KindInvalid: the API rejected the request for any other reason.
	KindInvalid Kind = "invalid"
	// KindCanceled: the caller's context ended first.
	KindCanceled Kind = "canceled"
)

// Error is a failed call of the Compute API.
type Error struct {
	// Verb is the API's method: "firewalls.insert".
	Verb string
	// Resource is its object: "projects/p/global/firewalls/name".
	Resource string
	// Endpoint is empty for Google's own.
	Endpoint string
	Kind     Kind
	Err      error
}

// Error names the method, the object, the cause and a remedy.
func (e *Error) Error() string {
	at := ""
	if e.Endpoint != "" {
		at = " at " + e.Endpoint
	}
	return fmt.Sprintf("compute %s of %s%s: %v%s", e.Verb, e.Resource, at, cause(e.Err), hint(e.Kind))
}

// cause returns one line; for a reply of the API its message, as the rest may be a
// page of JSON.
func cause(err error) string {
	text := err.Error()
	var api *googleapi.Error
	if errors.As(err, &api) && api.Message != "" {
		text = fmt.Sprintf("%d %s", api.Code, api.Message)
	}
	return strings.Join(strings.Fields(text), " ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, cloudprovider.InstanceNotFound) hold if the API
// answered that the instance does not exist. A list that is not found, for
// instance because the project is not, does not prove that.
func (e *Error) Is(target error) bool {
	return target == cloudprovider.InstanceNotFound && e.Kind == KindNotFound && e.Verb == "instances.get"
}

func hint(kind Kind) string {
	switch kind {
	case KindForbidden:
		return " (grant the missing permission to the service account of this program; its machine's access scopes and the project's Compute API must allow it too)"
	case KindQuota:
		return " (delete what is not needed, ask for a higher quota, or set gce.firewallLayout: shared in the cloud config)"
	}
	return ""
}

// operationError is an operation that ended with errors.
type operationError struct {
	codes    []string
	messages []string
	status   int64
}

func (e *operationError) Error() string {
	return fmt.Sprintf("the operation ended with %s: %s", strings.Join(e.codes, ", "), strings.Join(e.messages, "; "))
}

// operationFailure returns the error with which an operation ended, if any.
func operationFailure(op *compute.Operation) error {
	if op.Error == nil || len(op.Error.Errors) == 0 {
		return nil
	}
	failure := &operationError{status: op.HttpErrorStatusCode}
	for _, e := range op.Error.Errors {
		failure.codes = append(failure.codes, e.Code)
		failure.messages = append(failure.messages, e.Message)
	}
	return failure
}

// classify returns the Kind of an error of the generated client.
func classify(err error) Kind {
	var apiErr *googleapi.Error
	var opErr *operationError
	switch {
	case errors.As(err, &apiErr):
		return kindOfReply(apiErr)
	case errors.As(err, &opErr):
		return kindOfOperation(opErr)
	case errors.Is(err, context.Canceled):
		return KindCanceled
	}
	return KindTransient // No reply, or one cut short.
}

// kindOfReply uses the reason first: GCE returns 403 for missing permissions,
// quota and rate limits.
func kindOfReply(e *googleapi.Error) Kind {
	for _, item := range e.Errors {
		if kind, known := kindOfReason[item.Reason]; known {
			return kind
		}
	}
	return kindOfStatus(e.Code)
}

var kindOfReason = map[string]Kind{
	"rateLimitExceeded":     KindRateLimited,
	"userRateLimitExceeded": KindRateLimited,
	"quotaExceeded":         KindQuota,
	"resourceNotReady":      KindNotReady,
	"alreadyExists":         KindExists,
	"backendError":          KindTransient,
	"internalError":         KindTransient,
}

func kindOfStatus(status int) Kind {
	switch {
	case status == http.StatusNotFound:
		return KindNotFound
	case status == http.StatusConflict:
		return KindExists
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return KindForbidden
	case status == http.StatusTooManyRequests:
		return KindRateLimited
	case status >= http.StatusInternalServerError, status == http.StatusRequestTimeout:
		return KindTransient
	}
	return KindInvalid
}

var kindOfCode = map[string]Kind{
	"QUOTA_EXCEEDED":                      KindQuota,
	"RATE_LIMIT_EXCEEDED":                 KindRateLimited,
	"RESOURCE_NOT_FOUND":                  KindNotFound,
	"RESOURCE_ALREADY_EXISTS":             KindExists,
	"RESOURCE_NOT_READY":                  KindNotReady,
	"RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": KindNotReady,
	"PERMISSIONS_ERROR":                   KindForbidden,
	"INTERNAL_ERROR":                      KindTransient,
}

func kindOfOperation(e *operationError) Kind {
	for _, code := range e.codes {
		if kind, known := kindOfCode[code]; known {
			return kind
		}
	}
	if e.status != 0 {
		return kindOfStatus(int(e.status))
	}
	return KindTransient
}

// retryable reports whether another try may succeed.
func (k Kind) retryable() bool {
	return slices.Contains([]Kind{KindRateLimited, KindNotReady, KindTransient}, k)
}

// KindOf returns the kind of the *Error that err is or wraps, "" if there is none.
func KindOf(err error) Kind {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Kind
}
