// Package objects creates, updates and deletes the objects that are made for Services. Everything
// it writes has an ownership mark (see plan.Settings), and it never changes or deletes an object
// without the mark of the Service in question.
package objects

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// Change is what was done to an object.
type Change string

// The changes that Ensure makes.
const (
	Unchanged Change = ""
	Created   Change = "created"
	Updated   Change = "updated"
)

// Store holds the objects of one kind. Its methods read from the informer's cache and write to the
// API server. They are safe for concurrent use.
type Store[T metav1.Object] struct {
	// Kind names the objects in messages.
	Kind     string
	settings plan.Settings
	// namespace holds the objects; empty: each is in its Service's namespace.
	namespace string
	list      func(labels.Selector) ([]T, error)
	lister    func(namespace string) lister[T]
	client    func(namespace string) client[T]
	// update returns what to write so that have becomes like want, and the differences.
	update func(have, want T) (T, []plan.Difference)
	queue  Enqueuer
	remembered
}

// remembered is what is remembered of single objects.
type remembered struct {
	overrides *overrides
	uncertain *uncertain
	deleted   *deleted
	unchanged *unchanged
}

func newRemembered() remembered {
	return remembered{newOverrides(), &uncertain{newByName[types.UID]()}, &deleted{newByName[types.UID]()}, &unchanged{newByName[comparison]()}}
}

// Enqueuer makes the service controller ensure a Service again.
type Enqueuer interface {
	EnqueueAfter(service types.NamespacedName, d time.Duration)
}

// lister reads objects of one namespace from the cache.
type lister[T any] interface {
	Get(name string) (T, error)
}

// client reads and writes objects of one namespace.
type client[T any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Create(ctx context.Context, obj T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, obj T, opts metav1.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

// NotOursError is returned when an object with the wanted name has no ownership mark.
type NotOursError struct{ text string }

// Error names the object and what to do.
func (e *NotOursError) Error() string { return e.text }

// Ensure makes the object of a Service equal to want, and returns it as it then is. Where others
// change what is written, it leaves that so, see Overridden. The cache may be stale: where it
// contradicts the API server, the object is read again.
func (s Store[T]) Ensure(ctx context.Context, svc *v1.Service, want T) (T, Change, error) {
	have, err := s.lister(want.GetNamespace()).Get(want.GetName())
	if err == nil {
		next, done, err := s.updateObject(ctx, svc, have, want)
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return next, done, err
		}
	} else if !apierrors.IsNotFound(err) {
		return have, Unchanged, s.failed("reading", want, err)
	}
	c := s.client(want.GetNamespace())
	mayExist := s.uncertain.has(nameOf(want))
	s.uncertain.add(want) // The answer may be lost.
	if have, err = c.Create(ctx, want, metav1.CreateOptions{}); err == nil {
		s.uncertain.add(have)
		s.record(ctx, svc, Created, have, want, nil)
		return have, Created, nil
	} else if !apierrors.IsAlreadyExists(err) {
		if !mayExist && (apierrors.IsForbidden(err) || apierrors.IsInvalid(err)) {
			s.uncertain.forget(nameOf(want)) // The answer is known.
		}
		return have, Unchanged, s.failed("creating", want, err)
	}
	if have, err = c.Get(ctx, want.GetName(), metav1.GetOptions{}); err != nil {
		return have, Unchanged, s.failed("reading", want, err)
	}
	return s.updateObject(ctx, svc, have, want)
}

func (s Store[T]) updateObject(ctx context.Context, svc *v1.Service, have, want T) (T, Change, error) {
	if !s.settings.Owns(svc, have) {
		return have, Unchanged, &NotOursError{fmt.Sprintf("%s %s/%s exists and is not ours, it lacks label %s=%s: delete or rename it",
			s.Kind, want.GetNamespace(), want.GetName(), plan.LabelServiceUID, svc.UID)}
	}
	if s.unchanged.has(have, want) {
		return have, Unchanged, nil
	}
	next, differences := s.update(have, want)
	if len(differences) == 0 {
		s.unchanged.add(have, want)
		s.overrides.isAsWanted(svc.UID, have.GetName())
		return have, Unchanged, nil
	}
	if delay := s.overrides.delay(svc.UID, have, want, differences); delay > 0 {
		s.queue.EnqueueAfter(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, delay)
		return have, Unchanged, nil
	}
	next, err := s.client(want.GetNamespace()).Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return have, Unchanged, s.failed("updating", want, err)
	}
	s.record(ctx, svc, Updated, next, want, differences)
	return next, Updated, nil
}

// record records a write of an object that had differences before it.
func (s Store[T]) record(ctx context.Context, svc *v1.Service, done Change, answer, want T, before []plan.Difference) {
	s.log(ctx, svc, done, want)
	_, left := s.update(answer, want)
	s.overrides.wrote(svc.UID, answer, want, before, left)
}

// Overridden returns a message for each object of a Service in which others change what is written.
func (s Store[T]) Overridden(svc *v1.Service) []string {
	var list []string
	for name, message := range s.overrides.messages(svc.UID) {
		list = append(list, fmt.Sprintf("%s %s: %s. Unless that is wanted, exempt objects with the label %s=%s",
			s.Kind, klog.KRef(s.namespaceFor(svc), name), message, plan.LabelManagedBy, plan.ManagedBy))
	}
	slices.Sort(list)
	return list
}

// Cached returns the object of a Service from the cache, if it is there and has the mark.
func (s Store[T]) Cached(svc *v1.Service, name string) (T, bool) {
	have, err := s.lister(s.namespaceFor(svc)).Get(name)
	if err == nil {
		s.uncertain.seen(have)
	}
	return have, err == nil && s.settings.Owns(svc, have)
}

// Find returns the object of a Service from the cache, or where that may lack it, from the API server.
func (s Store[T]) Find(ctx context.Context, svc *v1.Service, name string) (have T, found bool, err error) {
	have, found = s.Cached(svc, name)
	if found || !s.uncertain.has(types.NamespacedName{Namespace: s.namespaceFor(svc), Name: name}) {
		return have, found, nil
	}
	return s.Live(ctx, svc, name)
}

// MayExist reports whether an object of a Service may exist.
func (s Store[T]) MayExist(svc *v1.Service, name string) bool {
	_, found := s.Cached(svc, name)
	return found || s.uncertain.has(types.NamespacedName{Namespace: s.namespaceFor(svc), Name: name})
}

// Latest returns the object of a Service from the API server, but does not ask for one that certainly does
// not exist.
func (s Store[T]) Latest(ctx context.Context, svc *v1.Service, name string) (have T, found bool, err error) {
	if have, found, err = s.Find(ctx, svc, name); !found || err != nil {
		return have, found, err
	}
	return s.Live(ctx, svc, name)
}

// Live returns the object of a Service from the API server, if it is there and has the mark.
func (s Store[T]) Live(ctx context.Context, svc *v1.Service, name string) (have T, found bool, err error) {
	at := klog.KRef(s.namespaceFor(svc), name)
	have, err = s.client(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return have, false, nil
	}
	if err != nil {
		return have, false, fmt.Errorf("reading %s %s: %w", s.Kind, at, err)
	}
	return have, s.settings.Owns(svc, have), nil
}

func (s Store[T]) namespaceFor(svc *v1.Service) string {
	if s.namespace == "" {
		return svc.Namespace
	}
	return s.namespace
}

// Delete deletes the object of a Service if it exists.
func (s Store[T]) Delete(ctx context.Context, svc *v1.Service, name string) error {
	have, found, err := s.Find(ctx, svc, name)
	if err != nil {
		return err
	}
	s.overrides.forget(svc.UID, func(other string) bool { return other == name })
	s.unchanged.forget(types.NamespacedName{Namespace: s.namespaceFor(svc), Name: name})
	if !found {
		s.deleted.forget(types.NamespacedName{Namespace: s.namespaceFor(svc), Name: name})
		return nil
	}
	if s.deleted.has(have) {
		return nil
	}
	if err = s.deleteObject(ctx, have); apierrors.IsConflict(err) { // Another one has its name since.
		if have, found, err = s.Live(ctx, svc, name); err != nil || !found {
			return err
		}
		err = s.deleteObject(ctx, have)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return s.failed("deleting", have, err)
	}
	s.uncertain.seen(have)
	s.deleted.add(have)
	s.log(ctx, svc, "deleted", have)
	return nil
}

// Owners returns the owners of all objects in the cache, one for each object.
func (s Store[T]) Owners() ([]firewall.Owner, error) {
	all, err := s.list(s.settings.Selector())
	if err != nil {
		return nil, err
	}
	var owners []firewall.Owner
	for _, obj := range all {
		if owner := s.ownerOf(obj); owner.Service.Namespace != "" && owner.Service.Name != "" && owner.UID != "" {
			owners = append(owners, owner)
		}
	}
	return owners, nil
}

// DeleteAll deletes all objects of an owner, whatever their names, and reports whether there were
// any that is not being deleted already. Each is deleted on condition that it is still the object that was read.
func (s Store[T]) DeleteAll(ctx context.Context, owner firewall.Owner) (deleted bool, err error) {
	all, err := s.list(s.settings.Selector())
	if err != nil {
		return false, err
	}
	s.overrides.forget(owner.UID, func(string) bool { return true })
	for _, obj := range all {
		if s.ownerOf(obj) != owner || obj.GetDeletionTimestamp() != nil {
			continue
		}
		err := s.deleteObject(ctx, obj)
		if err != nil && !apierrors.IsNotFound(err) {
			return deleted, s.failed("deleting", obj, err)
		}
		s.unchanged.forget(nameOf(obj))
		deleted = deleted || err == nil
	}
	return deleted, nil
}

func (s Store[T]) ownerOf(obj T) firewall.Owner {
	return firewall.Owner{ClusterID: s.settings.ClusterID, Service: plan.ServiceOf(obj), UID: types.UID(obj.GetLabels()[plan.LabelServiceUID])}
}

func (s Store[T]) deleteObject(ctx context.Context, obj T) error {
	return s.client(obj.GetNamespace()).Delete(ctx, obj.GetName(), metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: ptr.To(obj.GetUID())},
		PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
	})
}

func (s Store[T]) failed(doing string, obj T, err error) error {
	return fmt.Errorf("%s %s %s/%s: %w", doing, s.Kind, obj.GetNamespace(), obj.GetName(), err)
}

func (s Store[T]) log(ctx context.Context, svc *v1.Service, done Change, obj T) {
	klog.FromContext(ctx).V(2).Info("Changed an object", "service", klog.KObj(svc), "kind", s.Kind, "object", klog.KRef(obj.GetNamespace(), obj.GetName()), "change", done)
}
