//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

// The chart, from the root of the module, and the name of its release.
const (
	chart   = "manifests/helm/hostport-ccm"
	release = "hostport-ccm"
)

// TestHelmInstallsUpgradesAndUninstallsUnderConnections takes the overlay over into a release, uninstalls it,
// installs it from the package that a release has, and upgrades it. The Service is served all the time, and
// nothing made for it is written.
func TestHelmInstallsUpgradesAndUninstallsUnderConnections(t *testing.T) {
	ns, port, nodes := newNamespace(t), freePort(), cluster.Nodes(cluster.GCE)
	all := addressesOf(nodes, externalIP)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", inAllFamilies, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, all...)
	wantOpen(t, getTCP, "web", port, all...)
	before, live := versions(t, svc), map[string]liveConns{}
	for _, address := range all {
		live[address] = openLiveConns(t, 10, address, port)
	}
	connections := startNewConnections(t, port, nodes, externalIP)

	t.Cleanup(func() { restoreOverlay(t) })
	options := []string{"--values", helmValues(t), "--wait", "--timeout", "3m"}
	wantHelm(t, append([]string{"install", release, chart, "--take-ownership", "--force-conflicts"}, options...)...)
	wantNothingWritten(t, "after the overlay became a release", before, svc)

	wantHelm(t, "uninstall", release, "--wait", "--timeout", "3m")
	if _, err := client.AppsV1().Deployments(cluster.ProductNamespace).Get(t.Context(), release, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("hostport-ccm is still there after it was uninstalled (%v)", err)
	}
	steady(t, 5*time.Second, "the Service after hostport-ccm was uninstalled", func() error {
		got, err := addresses(t.Context(), svc)
		if err == nil && !sameElements(got, all) {
			err = fmt.Errorf("it has %v", got)
		}
		return err
	})

	dir := t.TempDir()
	wantHelm(t, "package", chart, "--destination", dir)
	packages, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("helm package wrote %v (%v)", packages, err)
	}
	wantHelm(t, append([]string{"install", release, packages[0]}, options...)...)
	if out, err := helm(t, append([]string{"upgrade", release, packages[0], "--set", "cloudConfig.loadBalancer.datapath=fast"}, options...)...); err == nil || !strings.Contains(out, "datapath") {
		t.Errorf("helm upgrade accepted a datapath that does not exist, or did not name it: %v: %s", err, out)
	}
	wantController(t, "--v=2")
	wantHelm(t, append([]string{"upgrade", release, packages[0], "--set", "logLevel=4"}, options...)...)
	wantController(t, "--v=4")
	wantNothingWritten(t, "after hostport-ccm was installed again and upgraded", before, svc)

	connections.wantNoneFailed(t, "while Helm worked")
	wantAllAlive(t, live)
	deleteService(t, svc)
	wantNothingLeft(t, svc)
}

// helmValues writes the values for this sandbox: those of the example, with the cloud config of the overlay.
func helmValues(t *testing.T) (path string) {
	t.Helper()
	var values, cloudConfig map[string]any
	for file, into := range map[string]any{"../../manifests/helm/examples/gce.yaml": &values, "../sandbox/manifests/gce/cloud-config.yaml": &cloudConfig} {
		text, err := os.ReadFile(file)
		if err == nil {
			err = yaml.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	maps.DeleteFunc(cloudConfig, func(key string, _ any) bool { return key == "apiVersion" || key == "kind" })
	cloudConfig["loadBalancer"] = map[string]any{"classes": "both"} // the default of hostport-ccm, not of the chart
	values["cloudConfig"], values["direct"] = cloudConfig, map[string]any{"enabled": true}
	written, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, written, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// helm runs Helm in the root of the module, and returns what it prints.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Minute)
	defer cancel()
	all := append([]string{"tool", "-modfile=test/sandbox/tools/helm/go.mod", "helm", "--kubeconfig", sandbox.Kubeconfig(), "--namespace", cluster.ProductNamespace}, args...)
	cmd := exec.CommandContext(ctx, "go", all...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+tools.Flags)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func wantHelm(t *testing.T, args ...string) {
	t.Helper()
	began := time.Now()
	out, err := helm(t, args...)
	if err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	t.Logf("helm %s: after %.1fs", args[0], time.Since(began).Seconds())
}

// wantController checks an argument of hostport-ccm.
func wantController(t *testing.T, argument string) {
	t.Helper()
	d, err := client.AppsV1().Deployments(cluster.ProductNamespace).Get(t.Context(), release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if args := d.Spec.Template.Spec.Containers[0].Args; !strings.Contains(strings.Join(args, " "), argument) {
		t.Errorf("hostport-ccm has the arguments %v, want %s", args, argument)
	}
}

// restoreOverlay replaces a release, if there is one, by the sandbox's overlay.
func restoreOverlay(t *testing.T) {
	if out, err := helm(t, "uninstall", release, "--ignore-not-found", "--wait", "--timeout", "3m"); err != nil {
		t.Errorf("clean up: %v: %s", err, out)
	}
	for _, args := range [][]string{
		{"apply", "-k", "../sandbox/manifests/gce"},
		{"-n", cluster.ProductNamespace, "rollout", "status", cluster.ProductDeployment, "--timeout=120s"},
	} {
		if out, err := sandbox.Kubectl(context.WithoutCancel(t.Context()), args...); err != nil {
			t.Errorf("clean up: %v: %s", err, out)
		}
	}
}

// wantNothingWritten checks that nothing made for a Service was written since versions were read. A new
// Service is served when hostport-ccm has reconciled all others.
func wantNothingWritten(t *testing.T, when string, before map[string]string, svc *v1.Service) {
	t.Helper()
	name := fmt.Sprint("later", freePort())
	newBackend(t, svc.Namespace, name)
	later := newService(t, svc.Namespace, name, nil, servicePort(v1.ProtocolTCP, freePort()))
	wantAddresses(t, later, 2*time.Minute, externalIPs()...)
	if diff := cmp.Diff(before, versions(t, svc)); diff != "" {
		t.Errorf("objects were written %s (-before +after):\n%s", when, diff)
	}
}
