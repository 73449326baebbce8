package objects

import (
	"context"
	"encoding/json"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// PatchAddresses writes the addresses in a Service's status and returns the Service as it then is.
// They are written only to the Service with the UID of svc and, if svc has one, the resource
// version: otherwise there is a conflict.
func PatchAddresses(ctx context.Context, services typedcorev1.ServicesGetter, svc *v1.Service, want v1.LoadBalancerStatus) (*v1.Service, error) {
	precondition := map[string]any{"uid": svc.UID}
	if svc.ResourceVersion != "" {
		precondition["resourceVersion"] = svc.ResourceVersion
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": precondition,
		// Not the status itself: it leaves out an empty list, and a merge would keep what there is.
		"status": map[string]any{"loadBalancer": map[string]any{"ingress": want.Ingress}},
	})
	if err != nil {
		return nil, err
	}
	return services.Services(svc.Namespace).Patch(ctx, svc.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
}
