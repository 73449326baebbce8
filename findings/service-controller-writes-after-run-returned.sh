#!/usr/bin/env bash
# What: the service controller of k8s.io/cloud-provider v0.37.2, which cloud controller managers run.
#
# Run returns as soon as its context ends, and waits for no worker. A worker whose EnsureLoadBalancer is
# under way then goes on, and patches the Service's status and records an event afterwards, as these
# requests do not use the context. So whoever releases the leader's lease when Run has returned lets
# the next leader be overtaken: the old one writes a status from before.
#
# Who meets it: authors of cloud controller managers that release the lease at shutdown.
# cmd/hostport-ccm/writes.go counts the requests that change something, and waits for them.
#
# Needs Go and network access to the Go module proxy. Exits non-zero if the behaviour changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >go.mod <<'MOD'
module example.com/finding

go 1.26

require (
	k8s.io/api v0.37.2
	k8s.io/apimachinery v0.37.2
	k8s.io/client-go v0.37.2
	k8s.io/cloud-provider v0.37.2
	k8s.io/component-base v0.37.2
)
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/controllers/service"
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/metrics/prometheus/controllers"
)

type balancer = cloudprovider.LoadBalancer

// cloud makes a load balancer when it may.
type cloud struct {
	cloudprovider.Interface
	balancer
	began, finish chan struct{}
}

func (c cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c, true }
func (c cloud) HasClusterID() bool                                { return true }
func (c cloud) ProviderName() string                              { return "example" }

func (c cloud) GetLoadBalancer(context.Context, string, *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	return nil, false, nil
}

func (c cloud) EnsureLoadBalancer(context.Context, string, *v1.Service, []*v1.Node) (*v1.LoadBalancerStatus, error) {
	close(c.began)
	<-c.finish
	return &v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: "192.0.2.1"}}}, nil
}

func main() {
	kube := fake.NewClientset(&v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, Ports: []v1.ServicePort{{Port: 80}}},
	})
	c := cloud{began: make(chan struct{}), finish: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(kube, 0)
	controller, err := service.New(c, kube, factory.Core().V1().Services(), factory.Core().V1().Nodes(), "example", featuregate.NewFeatureGate())
	if err != nil {
		panic(err)
	}
	factory.Start(ctx.Done())
	returned := make(chan struct{})
	go func() {
		controller.Run(ctx, 1, controllers.NewControllerManagerMetrics("example"))
		close(returned)
	}()
	<-c.began
	cancel()
	select {
	case <-returned:
		fmt.Println("Run has returned, EnsureLoadBalancer has not")
	case <-time.After(10 * time.Second):
		fmt.Println("changed: Run waits for its worker")
		os.Exit(1)
	}
	close(c.finish)
	for range 100 {
		svc, err := kube.CoreV1().Services("default").Get(context.Background(), "web", metav1.GetOptions{})
		if err == nil && len(svc.Status.LoadBalancer.Ingress) > 0 {
			fmt.Println("the worker has written the status", svc.Status.LoadBalancer.Ingress[0].IP, "after that")
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Println("changed: the worker writes no status after Run has returned")
	os.Exit(1)
}
GO
export GOFLAGS=-mod=mod
go run . 2>log || { tail -5 log; exit 1; }
# Seen: both lines of main, exit code 0.
echo "as seen with v0.37.2"
