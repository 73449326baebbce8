package apitest

import (
	"context"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/ptr"
)

func TestWritesWithOtherPreconditionsConflict(t *testing.T) {
	update := func(change func(*v1.ConfigMap)) func(typedcorev1.ConfigMapInterface, v1.ConfigMap) error {
		return func(c typedcorev1.ConfigMapInterface, live v1.ConfigMap) error {
			change(&live)
			_, err := c.Update(context.Background(), &live, metav1.UpdateOptions{})
			return err
		}
	}
	patch := func(data string) func(typedcorev1.ConfigMapInterface, v1.ConfigMap) error {
		return func(c typedcorev1.ConfigMapInterface, _ v1.ConfigMap) error {
			_, err := c.Patch(context.Background(), "a", types.MergePatchType, []byte(data), metav1.PatchOptions{})
			return err
		}
	}
	remove := func(p *metav1.Preconditions) func(typedcorev1.ConfigMapInterface, v1.ConfigMap) error {
		return func(c typedcorev1.ConfigMapInterface, _ v1.ConfigMap) error {
			return c.Delete(context.Background(), "a", metav1.DeleteOptions{Preconditions: p})
		}
	}
	for name, tt := range map[string]struct {
		write    func(typedcorev1.ConfigMapInterface, v1.ConfigMap) error
		conflict bool
	}{
		"an update of what was read":      {update(func(*v1.ConfigMap) {}), false},
		"an update of any version":        {update(func(cm *v1.ConfigMap) { cm.ResourceVersion = "" }), false},
		"an update of another version":    {update(func(cm *v1.ConfigMap) { cm.ResourceVersion = "1" }), true},
		"an update of another object":     {update(func(cm *v1.ConfigMap) { cm.UID = "other" }), true},
		"a patch without precondition":    {patch(`{"data":{"a":"b"}}`), false},
		"a patch of this object":          {patch(`{"metadata":{"uid":"1-uid"}}`), false},
		"a patch of another version":      {patch(`{"metadata":{"resourceVersion":"1"}}`), true},
		"a patch of another object":       {patch(`{"metadata":{"uid":"other"}}`), true},
		"a deletion without precondition": {remove(nil), false},
		"a deletion of this object":       {remove(&metav1.Preconditions{UID: ptr.To(types.UID("1-uid"))}), false},
		"a deletion of another object":    {remove(&metav1.Preconditions{UID: ptr.To(types.UID("other"))}), true},
		"a deletion of another version":   {remove(&metav1.Preconditions{ResourceVersion: ptr.To("1")}), true},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewClientset().CoreV1().ConfigMaps("default")
			live, err := c.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1-uid"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.write(c, *live); apierrors.IsConflict(err) != tt.conflict || !tt.conflict && err != nil {
				t.Errorf("error %v", err)
			}
			if after, err := c.Get(t.Context(), "a", metav1.GetOptions{}); err == nil && (after.ResourceVersion == live.ResourceVersion) != tt.conflict {
				t.Errorf("resource version %s after %s", after.ResourceVersion, live.ResourceVersion)
			}
		})
	}
}

func TestADryRunStoresNothing(t *testing.T) {
	kube := NewClientset()
	configMaps := kube.CoreV1().ConfigMaps("ns")
	made, err := configMaps.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || made.UID == "" {
		t.Errorf("created %v (%v)", made, err)
	}
	if _, err := configMaps.Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("reading it: %v", err)
	}
}
