// Package apitest adds to client-go's fake clientset what writers rely on and it omits: resource
// versions and UIDs, conflicts where those of a request are not those of the object, and creations
// that are only tried.
package apitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// NewClientset returns a fake clientset with these objects that applies Reaction to all requests.
func NewClientset(objects ...runtime.Object) *fake.Clientset {
	kube := fake.NewClientset(objects...)
	kube.PrependReactor("*", "*", Reaction(kube.Tracker()))
	return kube
}

var versions atomic.Uint64

func nextVersion() string { return strconv.FormatUint(1000+versions.Add(1), 10) }

// Reaction is clienttesting.ObjectReaction with conflicts, a new resource version with each write,
// a UID for each created object, and nothing stored by a dry run.
func Reaction(tracker clienttesting.ObjectTracker) clienttesting.ReactionFunc {
	apply := clienttesting.ObjectReaction(tracker)
	return func(action clienttesting.Action) (bool, runtime.Object, error) {
		if err := Check(tracker, action); err != nil {
			return true, nil, err
		}
		switch a := action.(type) {
		case clienttesting.CreateActionImpl:
			obj, metadata := stored(a.Object)
			if metadata.GetUID() == "" {
				metadata.SetUID(types.UID("uid-" + metadata.GetResourceVersion()))
			}
			if len(a.CreateOptions.DryRun) > 0 {
				return true, obj, nil
			}
			a.Object = obj
			return apply(a)
		case clienttesting.UpdateActionImpl:
			a.Object, _ = stored(a.Object)
			return apply(a)
		case clienttesting.PatchActionImpl:
			var err error
			if a.Patch, err = withVersion(a.PatchType, a.Patch); err != nil {
				return true, nil, err
			}
			return apply(a)
		}
		return apply(action)
	}
}

// Admit makes the API server change the objects of a resource in requests that create or update them,
// as a mutating admission policy does.
func Admit(kube *fake.Clientset, resource string, change func(runtime.Object)) {
	admit := func(action clienttesting.Action) (bool, runtime.Object, error) {
		change(action.(interface{ GetObject() runtime.Object }).GetObject()) // The action is a copy.
		return false, nil, nil
	}
	kube.PrependReactor("create", resource, admit)
	kube.PrependReactor("update", resource, admit)
}

// stored returns a copy of an object with a new resource version, and the same as metadata.
func stored(obj runtime.Object) (runtime.Object, metav1.Object) {
	obj = obj.DeepCopyObject()
	accessor, err := meta.Accessor(obj)
	if err != nil {
		panic(fmt.Sprintf("a client wrote an object without metadata: %v", err))
	}
	accessor.SetResourceVersion(nextVersion())
	return obj, accessor
}

// withVersion sets a new resource version in a merge patch.
func withVersion(kind types.PatchType, patch []byte) ([]byte, error) {
	if kind != types.MergePatchType && kind != types.StrategicMergePatchType {
		return patch, nil
	}
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return nil, err
	}
	metadata, _ := fields["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	metadata["resourceVersion"] = nextVersion()
	fields["metadata"] = metadata
	return json.Marshal(fields)
}

// Check returns the conflict of a write whose UID or resource version is not that of the object.
// Empty ones fit any object.
func Check(tracker clienttesting.ObjectTracker, action clienttesting.Action) error {
	name, uid, version, err := precondition(action)
	if err != nil || uid == "" && version == "" {
		return err
	}
	obj, err := tracker.Get(action.GetResource(), action.GetNamespace(), name)
	if err != nil {
		return err
	}
	live, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	if uid != "" && uid != live.GetUID() || version != "" && version != live.GetResourceVersion() {
		return apierrors.NewConflict(action.GetResource().GroupResource(), name, errors.New("the object has been modified"))
	}
	return nil
}

// precondition returns the name, UID and resource version that a write is about.
func precondition(action clienttesting.Action) (name string, uid types.UID, version string, err error) {
	switch a := action.(type) {
	case clienttesting.UpdateActionImpl:
		accessor, err := meta.Accessor(a.Object)
		if err != nil {
			return "", "", "", err
		}
		return accessor.GetName(), accessor.GetUID(), accessor.GetResourceVersion(), nil
	case clienttesting.PatchActionImpl:
		var patch metav1.PartialObjectMetadata
		if a.PatchType == types.MergePatchType || a.PatchType == types.StrategicMergePatchType {
			err = json.Unmarshal(a.Patch, &patch)
		}
		return a.Name, patch.UID, patch.ResourceVersion, err
	case clienttesting.DeleteActionImpl:
		if p := a.DeleteOptions.Preconditions; p != nil {
			if p.UID != nil {
				uid = *p.UID
			}
			if p.ResourceVersion != nil {
				version = *p.ResourceVersion
			}
		}
		return a.Name, uid, version, nil
	}
	return "", "", "", nil
}
