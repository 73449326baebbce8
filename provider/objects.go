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
	List(selector labels.Selector) ([]T, error)
}

// objects keeps one kind of object equal to plan. It never changes or deletes
// what does not carry the mark of the Service in question.
type objects[T metav1.Object] struct {
	kind     string
	settings plan.Settings
	cached   reader[T]
	client   writer[T]
	// update returns what to write to make have equal to want, or false.
	update func(have, want T) (T, bool)
}

// ensure makes the object equal to want. Memory may be behind: where it
// contradicts the API server, the latter is asked.
func (o objects[T]) ensure(ctx context.Context, svc *v1.Service, want T) (change, error) {
	have, err := o.cached.Get(want.GetName())
	if err == nil {
		done, err := o.bring(ctx, svc, have, want)
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return done, err
		}
	} else if !apierrors.IsNotFound(err) {
		return unchanged, o.failed("reading", want.GetName(), err)
	}
	if _, err = o.client.Create(ctx, want, metav1.CreateOptions{}); err == nil {
		o.log(ctx, svc, created, want.GetName())
		return created, nil
	} else if !apierrors.IsAlreadyExists(err) {
		return unchanged, o.failed("creating", want.GetName(), err)
	}
	if have, err = o.client.Get(ctx, want.GetName(), metav1.GetOptions{}); err != nil {
		return unchanged, o.failed("reading", want.GetName(), err)
	}
	return o.bring(ctx, svc, have, want)
}

// bring updates an object that is there.
func (o objects[T]) bring(ctx context.Context, svc *v1.Service, have, want T) (change, error) {
	if !o.settings.Owns(svc, have) {
		return unchanged, fmt.Errorf("%s %s/%s exists and is not ours, it lacks label %s=%s: delete or rename it",
			o.kind, o.settings.Namespace, want.GetName(), plan.LabelServiceUID, svc.UID)
	}
	next, differs := o.update(have, want)
	if !differs {
		return unchanged, nil
	}
	if _, err := o.client.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return unchanged, o.failed("updating", want.GetName(), err)
	}
	o.log(ctx, svc, updated, want.GetName())
	return updated, nil
}

// find asks the API server, as a deletion must not miss what memory does not
// know yet. found is false for an object that is not ours.
func (o objects[T]) find(ctx context.Context, svc *v1.Service) (have T, found bool, err error) {
	name := plan.Name(svc)
	have, err = o.client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return have, false, nil
	}
	if err != nil {
		return have, false, o.failed("looking for", name, err)
	}
	return have, o.settings.Owns(svc, have), nil
}

// remove deletes the Service's object if it is there.
func (o objects[T]) remove(ctx context.Context, svc *v1.Service) error {
	have, found, err := o.find(ctx, svc)
	if err != nil || !found {
		return err
	}
	if err = o.delete(ctx, have); err != nil && !apierrors.IsNotFound(err) {
		return o.failed("deleting", have.GetName(), err)
	}
	o.log(ctx, svc, "deleted", have.GetName())
	return nil
}

func (o objects[T]) failed(doing, name string, err error) error {
	return fmt.Errorf("%s %s %s/%s: %w", doing, o.kind, o.settings.Namespace, name, err)
}

func (o objects[T]) log(ctx context.Context, svc *v1.Service, done change, name string) {
	klog.FromContext(ctx).V(2).Info("Changed an object", "service", klog.KObj(svc), "kind", o.kind, "object", klog.KRef(o.settings.Namespace, name), "change", done)
}
