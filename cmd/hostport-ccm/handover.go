package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	appconfig "k8s.io/cloud-provider/app/config"
	managerapp "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"
	"k8s.io/utils/ptr"
)

// handover gives up the lease of leader election when we are told to stop, so
// that the standby leads at once and not when the lease has expired. The app
// package never does, as of v0.37.2.
type handover struct {
	mu sync.Mutex
	// All are empty until we lead.
	kube            kubernetes.Interface
	namespace, name string
	stop            context.CancelFunc
}

// watch wraps a controller's constructor: a controller is started when we lead.
func (h *handover) watch(construct app.InitFuncConstructor) app.InitFuncConstructor {
	return func(init app.ControllerInitContext, completed *appconfig.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
		start := construct(init, completed, cloud)
		return func(ctx context.Context, manager managerapp.ControllerContext) (controller.Interface, bool, error) {
			election := completed.ComponentConfig.Generic.LeaderElection
			if !election.LeaderElect {
				return start(ctx, manager)
			}
			ctx, stop := context.WithCancel(ctx)
			h.lead(completed.Client, election.ResourceNamespace, election.ResourceName, stop)
			return start(ctx, manager)
		}
	}
}

func (h *handover) lead(kube kubernetes.Interface, namespace, name string, stop context.CancelFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kube, h.namespace, h.name, h.stop = kube, namespace, name, stop
}

// release stops the controller and gives up the lease, if we lead. The process
// has to end right after it, or it would take the lease again.
func (h *handover) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kube == nil {
		return nil
	}
	h.stop()
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("giving up the lease: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	leases := h.kube.CoordinationV1().Leases(h.namespace)
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		lease, err := leases.Get(ctx, h.name, metav1.GetOptions{})
		// The holder's name begins with its host's (app.Run).
		if err != nil || !strings.HasPrefix(ptr.Deref(lease.Spec.HolderIdentity, ""), host+"_") {
			return err
		}
		giveUp(&lease.Spec, time.Now())
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("giving up lease %s/%s, which now expires by itself: %w", h.namespace, h.name, err)
	}
	return nil
}

// giveUp writes what client-go's own release does.
func giveUp(spec *v1.LeaseSpec, now time.Time) {
	spec.HolderIdentity = ptr.To("")
	spec.LeaseDurationSeconds = ptr.To[int32](1)
	spec.RenewTime = &metav1.MicroTime{Time: now}
	spec.AcquireTime = &metav1.MicroTime{Time: now}
}
