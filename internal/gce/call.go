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

// target identifies a call in errors, logs and metrics.
type target struct{ verb, resource string }

// change starts a change and waits until its operation is done. An operation
// that ends with a transient error is started again with a new request id: for a
// known id, GCE returns the operation that failed.
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

// changeOnce uses one request id for all tries, so that a change whose reply was
// lost is not made twice.
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
		// The outcome is unknown. An operation that is not found must not read as
		// if the resource was not found.
		kind := KindOf(err)
		if kind != KindCanceled && kind != KindForbidden {
			kind = KindTransient
		}
		return c.newError(t, kind, fmt.Errorf("the change was accepted, but waiting for it failed: %w", err))
	}
	if err := operationFailure(op); err != nil {
		return c.newError(t, classify(err), err)
	}
	return nil
}

// await waits until a global operation of the network's project is done.
func (c *Client) await(ctx context.Context, op *compute.Operation) (*compute.Operation, error) {
	t := target{"globalOperations.wait", "projects/" + c.options.NetworkProject + "/global/operations/" + op.Name}
	for op.Status != "DONE" {
		if err := ctx.Err(); err != nil {
			return nil, c.newError(t, classify(err), err)
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

// call sends a request, and again while it fails with a transient error. The
// generated client does not retry.
func (c *Client) call(ctx context.Context, t target, timeout time.Duration, request func(context.Context) error) error {
	backoff := c.options.Backoff
	for {
		start := time.Now()
		requestCtx, cancel := context.WithTimeout(ctx, timeout)
		err := request(requestCtx)
		cancel()
		if err != nil {
			err = c.newError(t, classify(err), err)
		}
		observe(t.verb, start, err)
		if err == nil || !KindOf(err).retryable() || backoff.Steps <= 1 {
			return err
		}
		pause := backoff.Step()
		klog.FromContext(ctx).V(4).Info("Retrying a request", "verb", t.verb, "resource", t.resource, "in", pause, "reason", err)
		if !sleep(ctx, pause) {
			return err
		}
	}
}

func (c *Client) newError(t target, kind Kind, err error) error {
	return &Error{Verb: t.verb, Resource: t.resource, Endpoint: c.options.Endpoint, Kind: kind, Err: err}
}

// sleep returns false if ctx is done first.
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
