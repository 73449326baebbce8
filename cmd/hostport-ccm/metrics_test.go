package main

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/hostport-ccm/hostport-ccm/internal/metricstest"
)

// The metrics of other libraries, which alerts and the dashboard use, appear when these are used.
func TestMetricsOfLibrariesAreDocumented(t *testing.T) {
	defaults, err := defaults()
	if err != nil {
		t.Fatal(err)
	}
	kube := kubernetes.NewForConfigOrDie(&rest.Config{Host: "https://localhost:1"})
	if _, err := kube.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Fatal("there is an API server")
	}
	queue := workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.DefaultTypedControllerRateLimiter[string](), workqueue.TypedRateLimitingQueueConfig[string]{Name: "service"})
	defer queue.ShutDown()
	election := defaults.Generic.LeaderElection
	_, err = leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          &resourcelock.LeaseLock{LockConfig: resourcelock.ResourceLockConfig{Identity: "test"}},
		LeaseDuration: election.LeaseDuration.Duration, RenewDeadline: election.RenewDeadline.Duration, RetryPeriod: election.RetryPeriod.Duration,
		Name:      election.ResourceName,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Documented(t, families, "leader_election_master_", "workqueue_depth", "workqueue_queue_", "rest_client_requests_", "process_resident_memory_", "process_cpu_")
}
