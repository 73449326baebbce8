package gce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/api/compute/v1"
	"k8s.io/klog/v2"
)

// target names one call in errors, logs and metrics.
type target struct{ verb, resource string }

// call sends one request, again and again while it fails for reasons that may
// pass. The generated client never retries by itself.
func (c *Client) call(ctx context.Context, t target, timeout time.Duration, request func(context.Context) error) error {
	backoff := c.options.Backoff
	for {
		err := c.once(ctx, t, timeout, request)
		var failure *Error
		if err == nil || !errors.As(err, &failure) || !failure.Kind.retryable() || backoff.Steps <= 1 {
			return err
		}
		pause := backoff.Step()
		klog.FromContext(ctx).V(4).Info("Trying again", "verb", t.verb, "resource", t.resource, "in", pause, "reason", err)
		if !sleep(ctx, pause) {
			return err
		}
	}
}

// once sends one request.
func (c *Client) once(ctx context.Context, t target, timeout time.Duration, request func(context.Context) error) error {
	start := time.Now()
	requestCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := c.typed(t, request(requestCtx))
	observe(t.verb, start, err)
	return err
}

// typed wraps the generated client's error.
func (c *Client) typed(t target, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Verb: t.verb, Resource: t.resource, Endpoint: c.options.Endpoint, Kind: classify(err), Err: err}
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// change starts a change and waits until its operation is done. The request
// carries one id through all tries, so that a change whose reply was lost is
// not made twice. An operation that ends with a passing error is started anew,
// with a new id: GCE answers an old id with the operation that failed.
func (c *Client) change(ctx context.Context, t target, start func(ctx context.Context, requestID string) (*compute.Operation, error)) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.OperationTimeout)
	defer cancel()
	begin := time.Now()
	backoff := c.options.Backoff
	for {
		err := c.changeOnce(ctx, t, start)
		var ended *operationError
		retry := errors.As(err, &ended) && kindOfOperation(ended).retryable() && backoff.Steps > 1
		if !retry || !sleep(ctx, backoff.Step()) {
			observe(t.verb+"/operation", begin, err)
			return err
		}
	}
}

func (c *Client) changeOnce(ctx context.Context, t target, start func(context.Context, string) (*compute.Operation, error)) error {
	id := uuid.NewString()
	var op *compute.Operation
	err := c.call(ctx, t, c.options.RequestTimeout, func(ctx context.Context) (err error) {
		op, err = start(ctx, id)
		return err
	})
	if err != nil {
		return err
	}
	if op, err = c.await(ctx, op); err != nil {
		return c.outcomeUnknown(t, err)
	}
	return c.typed(t, operationFailure(op))
}

// outcomeUnknown is the error of a change that was accepted and then lost from
// sight. That its operation was not found must not read as if the resource
// was not there.
func (c *Client) outcomeUnknown(t target, err error) error {
	kind := KindTransient
	var failure *Error
	if errors.As(err, &failure) && (failure.Kind == KindCanceled || failure.Kind == KindForbidden) {
		kind = failure.Kind
	}
	return &Error{Verb: t.verb, Resource: t.resource, Endpoint: c.options.Endpoint, Kind: kind,
		Err: fmt.Errorf("the change was accepted, but waiting for it failed: %w", err)}
}

// await waits for the end of a global operation of the network's project.
func (c *Client) await(ctx context.Context, op *compute.Operation) (*compute.Operation, error) {
	t := target{"globalOperations.wait", "projects/" + c.options.NetworkProject + "/global/operations/" + op.Name}
	for op.Status != "DONE" {
		if err := ctx.Err(); err != nil {
			return nil, c.typed(t, err)
		}
		name := op.Name
		err := c.call(ctx, t, waitTimeout, func(ctx context.Context) (err error) {
			op, err = c.service.GlobalOperations.Wait(c.options.NetworkProject, name).Context(ctx).Do()
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return op, nil
}
