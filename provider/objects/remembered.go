package objects

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// uncertain are the objects that the cache may not have yet: those that were created here, or may have
// been, and have not been seen in the cache since. All others are known from it, as an informer begins
// with all objects that exist: it gets them by a watch from the state in etcd (WatchList, the default of
// client-go since v0.35).
type uncertain struct {
	mu sync.Mutex
	// uids are empty where no answer came.
	uids map[types.NamespacedName]types.UID
}

func newUncertain() *uncertain { return &uncertain{uids: map[types.NamespacedName]types.UID{}} }

// add adds an object that is to be created, or was.
func (u *uncertain) add(obj metav1.Object) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.uids[nameOf(obj)] = obj.GetUID()
}

// seen removes an object that was in the cache, or was deleted. A former one of the same name may be in
// the cache for a while.
func (u *uncertain) seen(obj metav1.Object) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if uid := u.uids[nameOf(obj)]; uid == "" || uid == obj.GetUID() {
		delete(u.uids, nameOf(obj))
	}
}

func (u *uncertain) has(name types.NamespacedName) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, found := u.uids[name]
	return found
}

// deleted are the objects that were deleted here and that the cache may still have, by their UIDs.
type deleted struct {
	mu   sync.Mutex
	uids map[types.NamespacedName]types.UID
}

func newDeleted() *deleted { return &deleted{uids: map[types.NamespacedName]types.UID{}} }

func (d *deleted) add(obj metav1.Object) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.uids[nameOf(obj)] = obj.GetUID()
}

func (d *deleted) has(obj metav1.Object) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return obj.GetUID() != "" && d.uids[nameOf(obj)] == obj.GetUID()
}

func (d *deleted) forget(name types.NamespacedName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.uids, name)
}

// unchanged are the comparisons that found no difference, so that an object that nobody has changed is
// compared once.
type unchanged struct {
	mu     sync.Mutex
	byName map[types.NamespacedName]comparison
}

type comparison struct {
	uid     types.UID
	version string
	want    string
}

func newUnchanged() *unchanged { return &unchanged{byName: map[types.NamespacedName]comparison{}} }

func (u *unchanged) set(have, want metav1.Object) {
	compared := comparison{have.GetUID(), have.GetResourceVersion(), fingerprint(want)}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.byName[nameOf(have)] = compared
}

// is reports whether have, as it is now, was compared with the same as want.
func (u *unchanged) is(have, want metav1.Object) bool {
	u.mu.Lock()
	known, found := u.byName[nameOf(have)]
	u.mu.Unlock()
	return found && have.GetResourceVersion() != "" && known.uid == have.GetUID() && known.version == have.GetResourceVersion() &&
		known.want == fingerprint(want)
}

func (u *unchanged) forget(name types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.byName, name)
}

func nameOf(obj metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
