package events

import (
	"context"
	"time"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// identity is what makes two warnings the same to a reader.
type identity struct {
	object          types.UID
	reason, message string
}

// Recent are the warnings that the API server has of earlier processes, and when each was recorded
// last.
type Recent map[identity]time.Time

// listTimeout bounds the start of a new leader.
const listTimeout = 5 * time.Second

// ListRecent reads the warnings that a component recorded. Without them, warnings that still hold are
// recorded again, so failures are logged only.
func ListRecent(ctx context.Context, kube kubernetes.Interface, component string) Recent {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	list, err := kube.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"source": component, "type": v1.EventTypeWarning}.String(),
	})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Warnings that still hold will be recorded again")
		return nil
	}
	recent := Recent{}
	for _, e := range list.Items {
		if e.Type != v1.EventTypeWarning || e.Source.Component != component {
			continue
		}
		id := identity{e.InvolvedObject.UID, e.Reason, e.Message}
		if at := e.LastTimestamp.Time; at.After(recent[id]) {
			recent[id] = at
		}
	}
	return recent
}
