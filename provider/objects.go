package provider

import (
	"context"
	"fmt"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// change is what was done to an object.
type change string

const (
	unchanged change = ""
	created   change = "created"
	updated   change = "updated"
)

// writer is a client for one kind of object in one namespace.
type writer[T any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Create(ctx context.Context, obj T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, obj T, opts metav1.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

// reader reads the same objects from memory.
type reader[T any] interface {
	Get(name string) (T, error)
}

// objects keeps one kind of object equal to plan. It never changes or deletes
// what does not carry the mark of the Service in question.
type objects[T metav1.Object] struct {
	kind     string
	settings plan.Settings
	// namespace holds the objects; empty: each is where its Service is.
	namespace string
	// list reads them from memory, wherever they are.
	list   func(labels.Selector) ([]T, error)
	cached func(namespace string) reader[T]
	client func(namespace string) writer[T]
	// update returns what to write to make have equal to want, or false.
	update func(have, want T) (T, bool)
}

// notOursError says that an object stands where ours is to be.
type notOursError struct{ text string }

func (e *notOursError) Error() string { return e.text }

// ensure makes the object equal to want, and returns it. Memory may be behind:
// where it contradicts the API server, the latter is asked.
func (o objects[T]) ensure(ctx context.Context, svc *v1.Service, want T) (have T, done change, err error) {
	have, err = o.cached(want.GetNamespace()).Get(want.GetName())
	if err == nil {
		next, done, err := o.bring(ctx, svc, have, want)
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return next, done, err
		}
	} else if !apierrors.IsNotFound(err) {
		return have, unchanged, o.failed("reading", want, err)
	}
	client := o.client(want.GetNamespace())
	if have, err = client.Create(ctx, want, metav1.CreateOptions{}); err == nil {
		o.log(ctx, svc, created, want)
		return have, created, nil
	} else if !apierrors.IsAlreadyExists(err) {
		return have, unchanged, o.failed("creating", want, err)
	}
	if have, err = client.Get(ctx, want.GetName(), metav1.GetOptions{}); err != nil {
		return have, unchanged, o.failed("reading", want, err)
	}
	return o.bring(ctx, svc, have, want)
}

// bring updates an object that is there.
func (o objects[T]) bring(ctx context.Context, svc *v1.Service, have, want T) (T, change, error) {
	if !o.settings.Owns(svc, have) {
		return have, unchanged, &notOursError{fmt.Sprintf("%s %s/%s exists and is not ours, it lacks label %s=%s: delete or rename it",
			o.kind, want.GetNamespace(), want.GetName(), plan.LabelServiceUID, svc.UID)}
	}
	next, differs := o.update(have, want)
	if !differs {
		return have, unchanged, nil
	}
	next, err := o.client(want.GetNamespace()).Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return have, unchanged, o.failed("updating", want, err)
	}
	o.log(ctx, svc, updated, want)
	return next, updated, nil
}

// known returns an object of the Service from memory, if it is there and ours.
func (o objects[T]) known(svc *v1.Service, name string) (T, bool) {
	have, err := o.cached(o.namespaceFor(svc)).Get(name)
	return have, err == nil && o.settings.Owns(svc, have)
}

// find asks the API server, as a deletion must not miss what memory does not
// know yet. found is false for an object that is not ours.
func (o objects[T]) find(ctx context.Context, svc *v1.Service, name string) (have T, found bool, err error) {
	at := klog.KRef(o.namespaceFor(svc), name)
	have, err = o.client(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return have, false, nil
	}
	if err != nil {
		return have, false, fmt.Errorf("looking for %s %s: %w", o.kind, at, err)
	}
	return have, o.settings.Owns(svc, have), nil
}

func (o objects[T]) namespaceFor(svc *v1.Service) string {
	if o.namespace == "" {
		return svc.Namespace
	}
	return o.namespace
}

// remove deletes an object of the Service if it is there.
func (o objects[T]) remove(ctx context.Context, svc *v1.Service, name string) error {
	have, found, err := o.find(ctx, svc, name)
	if err != nil || !found {
		return err
	}
	if err = o.delete(ctx, have); err != nil && !apierrors.IsNotFound(err) {
		return o.failed("deleting", have, err)
	}
	o.log(ctx, svc, "deleted", have)
	return nil
}

func (o objects[T]) failed(doing string, obj T, err error) error {
	return fmt.Errorf("%s %s %s/%s: %w", doing, o.kind, obj.GetNamespace(), obj.GetName(), err)
}

func (o objects[T]) log(ctx context.Context, svc *v1.Service, done change, obj T) {
	klog.FromContext(ctx).V(2).Info("Changed an object", "service", klog.KObj(svc), "kind", o.kind, "object", klog.KRef(obj.GetNamespace(), obj.GetName()), "change", done)
}
