package objects

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// byName are values of objects, by the objects' names. It is safe for concurrent use.
type byName[V any] struct {
	mu     sync.Mutex
	values map[types.NamespacedName]V
}

func newByName[V any]() byName[V] { return byName[V]{values: map[types.NamespacedName]V{}} }

func (b *byName[V]) set(name types.NamespacedName, value V) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.values[name] = value
}

func (b *byName[V]) get(name types.NamespacedName) (value V, found bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	value, found = b.values[name]
	return value, found
}

func (b *byName[V]) forget(name types.NamespacedName) {
	b.forgetIf(name, func(V) bool { return true })
}

func (b *byName[V]) forgetIf(name types.NamespacedName, condition func(V) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if value, found := b.values[name]; found && condition(value) {
		delete(b.values, name)
	}
}

// uncertain are the objects that the cache may not have yet: those that were created here, or may have
// been, and have not been seen in the cache since. All others are known from it, as an informer begins
// with all objects that exist: it gets them by a watch from the state in etcd (WatchList, the default of
// client-go since v0.35). The UIDs are empty where no answer came.
type uncertain struct{ byName[types.UID] }

// add adds an object that is to be created, or was.
func (u *uncertain) add(obj metav1.Object) { u.set(nameOf(obj), obj.GetUID()) }

// seen removes an object that was in the cache, or was deleted. A former one of the same name may be in
// the cache for a while.
func (u *uncertain) seen(obj metav1.Object) {
	u.forgetIf(nameOf(obj), func(uid types.UID) bool { return uid == "" || uid == obj.GetUID() })
}

func (u *uncertain) has(name types.NamespacedName) bool {
	_, found := u.get(name)
	return found
}

// deleted are the objects that were deleted here and that the cache may still have, by their UIDs.
type deleted struct{ byName[types.UID] }

func (d *deleted) add(obj metav1.Object) { d.set(nameOf(obj), obj.GetUID()) }

func (d *deleted) has(obj metav1.Object) bool {
	uid, found := d.get(nameOf(obj))
	return found && uid != "" && uid == obj.GetUID()
}

// unchanged are the comparisons that found no difference, so that an object that nobody has changed is
// compared once.
type unchanged struct{ byName[comparison] }

type comparison struct {
	uid     types.UID
	version string
	want    string
}

func (u *unchanged) add(have, want metav1.Object) {
	u.set(nameOf(have), comparison{have.GetUID(), have.GetResourceVersion(), fingerprint(want)})
}

// has reports whether have, as it is now, was compared with the same as want.
func (u *unchanged) has(have, want metav1.Object) bool {
	known, found := u.get(nameOf(have))
	return found && have.GetResourceVersion() != "" && known.uid == have.GetUID() && known.version == have.GetResourceVersion() &&
		known.want == fingerprint(want)
}

func nameOf(obj metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
