package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	appconfig "k8s.io/cloud-provider/app/config"
	managerapp "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// leaderLease releases the lease of leader election at shutdown, so that a standby leads at once
// and not when the lease has expired. The app package of k8s.io/cloud-provider does not release it,
// as of v0.37.2.
type leaderLease struct {
	writes writes // Of all controllers.

	mu sync.Mutex
	// These are set once this replica leads.
	kube            kubernetes.Interface
	namespace, name string
	stop            context.CancelFunc // Stops the controller.
}

// wrap returns a constructor whose controller reports to l that this replica leads: controllers
// start only then.
func (l *leaderLease) wrap(construct app.InitFuncConstructor) app.InitFuncConstructor {
	return func(init app.ControllerInitContext, completed *appconfig.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
		// The clients of the controllers are made later, and completed.Client before.
		completed.Kubeconfig.Wrap(l.writes.wrap)
		start := construct(init, completed, cloud)
		return func(ctx context.Context, manager managerapp.ControllerContext) (controller.Interface, bool, error) {
			election := completed.ComponentConfig.Generic.LeaderElection
			if election.LeaderElect {
				var stop context.CancelFunc
				ctx, stop = context.WithCancel(ctx)
				l.acquired(completed.Client, election.ResourceNamespace, election.ResourceName, stop)
			}
			return start(ctx, manager)
		}
	}
}

func (l *leaderLease) acquired(kube kubernetes.Interface, namespace, name string, stop context.CancelFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kube, l.namespace, l.name, l.stop = kube, namespace, name, stop
}

// writesTimeout is how long a shutdown waits for writes. Together with the release of the lease, it is
// less than a pod's default grace period of 30 s.
const writesTimeout = 8 * time.Second

// release stops the controllers and releases the lease if this replica leads. First it waits until
// nothing is being written: the next leader must not be overtaken. The process has to exit right
// after it, as it would acquire the lease again.
func (l *leaderLease) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kube == nil {
		return nil
	}
	if !l.writes.stop(writesTimeout) {
		klog.Background().Info("The lease is released although writes are under way", "after", writesTimeout)
	}
	l.stop()
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("releasing lease %s/%s: %w", l.namespace, l.name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	leases := l.kube.CoordinationV1().Leases(l.namespace)
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		lease, err := leases.Get(ctx, l.name, metav1.GetOptions{})
		// app.Run uses "<host name>_<UUID>" as the identity of the holder.
		if err != nil || !strings.HasPrefix(ptr.Deref(lease.Spec.HolderIdentity, ""), host+"_") {
			return err
		}
		// As the LeaderElector of client-go releases a lease.
		now := &metav1.MicroTime{Time: time.Now()}
		lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = ptr.To(""), ptr.To[int32](1)
		lease.Spec.RenewTime, lease.Spec.AcquireTime = now, now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("releasing lease %s/%s, which now has to expire: %w", l.namespace, l.name, err)
	}
	return nil
}
