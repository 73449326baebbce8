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

// Kind is what an error means for the caller.
type Kind string

// The kinds.
const (
	KindNotFound    Kind = "not found"
	KindExists      Kind = "already exists"
	KindForbidden   Kind = "forbidden"
	KindQuota       Kind = "quota exceeded"
	KindRateLimited Kind = "rate limited"
	// KindNotReady: another change of the same resource is under way.
	KindNotReady Kind = "not ready"
	// KindTransient: the server's trouble or the network's.
	KindTransient Kind = "transient"
	KindInvalid   Kind = "invalid"
	// KindCanceled: the caller's context ended first.
	KindCanceled Kind = "canceled"
)

// Error is a failed call of the Compute API.
type Error struct {
	// Verb is the API's method: "firewalls.insert".
	Verb string
	// Resource is what it was about: "projects/p/global/firewalls/name".
	Resource string
	// Endpoint is set if it is not Google's own.
	Endpoint string
	Kind     Kind
	Err      error
}

// Error names the method, the object and the cause, and what to do about it.
func (e *Error) Error() string {
	at := ""
	if e.Endpoint != "" {
		at = " at " + e.Endpoint
	}
	return fmt.Sprintf("compute %s of %s%s: %v%s", e.Verb, e.Resource, at, cause(e.Err), hint(e.Kind))
}

// cause is one line. Of a reply by the API it is the message: the rest of it may
// be a page of JSON.
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

// operationFailure returns the error an operation that is done ended with.
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

// classify finds the Kind of whatever the generated client returns.
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

// kindOfReply judges by the reason first: GCE uses 403 for rights, quota and
// rate limits alike.
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

// retryable says whether trying again may help.
func (k Kind) retryable() bool {
	return slices.Contains([]Kind{KindRateLimited, KindNotReady, KindTransient}, k)
}

// KindOf is the kind of an error of this package; empty for others.
func KindOf(err error) Kind {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Kind
}
