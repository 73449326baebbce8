//go:build e2e

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// The sandbox in which the tests run, and clients of its API server and its simulator of Compute
// Engine.
var (
	sandbox *cluster.Cluster
	config  *rest.Config
	client  kubernetes.Interface
	sim     gcesim.AdminClient
)

// userNamespaces is a flag: in mode nftables, all tests run with it.
var userNamespaces = flag.Bool("user-namespaces", false, "run proxies in user namespaces")

func TestMain(m *testing.M) {
	flag.Parse()
	if err := connect(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	status := m.Run()
	if err := waitForCleanup(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	os.Exit(status)
}

func connect() error {
	var err error
	if sandbox, err = cluster.Open(os.Stderr); err != nil {
		return err
	}
	if !sandbox.Running() {
		return cluster.ErrNotRunning
	}
	if config, err = clientcmd.BuildConfigFromFlags("", sandbox.Kubeconfig()); err != nil {
		return err
	}
	config.QPS, config.Burst = 50, 100
	if client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	sim = cluster.Simulator()
	// The Service of `make demo` uses a port that the tests need.
	_, err = sandbox.Kubectl(context.Background(), "delete", "namespace", "demo", "--ignore-not-found", "--timeout=120s")
	if err == nil && *userNamespaces {
		if _, err = sandbox.EditCloudConfig(context.Background(), inUserNamespaces); errors.Is(err, cluster.ErrNoChange) {
			err = nil
		}
	}
	return err
}

// asHostportCCM returns a client with the rights of hostport-ccm, the only one that may write mirrors.
func asHostportCCM(t *testing.T) kubernetes.Interface {
	t.Helper()
	impersonating := rest.CopyConfig(config)
	impersonating.Impersonate.UserName = "system:serviceaccount:" + cluster.ProductNamespace + ":hostport-ccm"
	client, err := kubernetes.NewForConfig(impersonating)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// needKubernetes skips a test on versions of Kubernetes before this one, where something else holds. The
// Makefile runs `make test` on a later one.
func needKubernetes(t *testing.T, since, before string) {
	t.Helper()
	running, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if utilversion.MustParseGeneric(running.GitVersion).LessThan(utilversion.MustParseGeneric(since)) {
		t.Skipf("before Kubernetes %s, %s", since, before)
	}
}

// slowest is how many times as long as the limits in tests the slowest machine may take. On one where
// pods took 20 to 40 seconds to start, limits of a minute were too short.
const slowest = 3

// eventually waits until try succeeds, also while a test cleans up. Limits are for machines much
// slower than usual: they do not assert how fast the product is.
func eventually(t *testing.T, limit time.Duration, what string, try func(ctx context.Context) error) {
	t.Helper()
	limit *= slowest
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
	defer cancel()
	began := time.Now()
	for {
		err := try(ctx)
		if err == nil {
			t.Logf("%s: after %.1fs", what, time.Since(began).Seconds())
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// steady checks repeatedly that something stays as it is for a period.
func steady(t *testing.T, period time.Duration, what string, check func() error) {
	t.Helper()
	for end := time.Now().Add(period); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err := check(); err != nil {
			t.Fatalf("%s did not last: %v", what, err)
		}
	}
}
