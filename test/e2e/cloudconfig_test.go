//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// setProxyImage changes the proxies' image in the cloud-config of the running controller manager.
// The function that it returns restores the cloud-config.
func setProxyImage(t *testing.T, image string) (restore func()) {
	t.Helper()
	return changeCloudConfig(t, func(content string) string {
		var lines []string
		for line := range strings.Lines(content) {
			if key, _, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "proxyImage" {
				line = key + ": " + image + "\n"
			}
			lines = append(lines, line)
		}
		return strings.Join(lines, "")
	})
}

// setFirewallLayout does the same for the firewall layout.
func setFirewallLayout(t *testing.T, layout string) (restore func()) {
	t.Helper()
	return changeCloudConfig(t, func(content string) string {
		return strings.Replace(content, "\ngce:\n", "\ngce:\n  firewallLayout: "+layout+"\n", 1)
	})
}

// changeCloudConfig changes the cloud-config and restarts the controller manager. The function that
// it returns undoes that, once.
func changeCloudConfig(t *testing.T, change func(string) string) (restore func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	original, err := editCloudConfig(ctx, change)
	if err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if _, err := editCloudConfig(ctx, func(string) string { return original }); err != nil {
			t.Errorf("restore the cloud-config: %v", err)
		}
	})
}

// inUserNamespaces returns a cloud-config with which proxies run in user namespaces.
func inUserNamespaces(content string) string {
	if strings.Contains(content, "\n  userNamespaces: true\n") { // from an earlier run in this sandbox
		return content
	}
	return strings.Replace(content, "\nloadBalancer:\n", "\nloadBalancer:\n  userNamespaces: true\n", 1)
}

var errNoChange = errors.New("the change does not apply to the cloud-config")

// editCloudConfig changes the cloud-config, restarts the controller manager, and returns the
// cloud-config from before.
func editCloudConfig(ctx context.Context, change func(string) string) (before string, err error) {
	d, err := client.AppsV1().Deployments(cluster.ProductNamespace).Get(ctx, "hostport-ccm", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	volumes := d.Spec.Template.Spec.Volumes
	i := slices.IndexFunc(volumes, func(v v1.Volume) bool { return v.ConfigMap != nil })
	if i < 0 {
		return "", errors.New("the controller manager has no cloud-config")
	}
	maps := client.CoreV1().ConfigMaps(cluster.ProductNamespace)
	m, err := maps.Get(ctx, volumes[i].ConfigMap.Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for key := range m.Data { // There is one.
		before = m.Data[key]
		m.Data[key] = change(before)
		if m.Data[key] == before {
			return "", fmt.Errorf("%w:\n%s", errNoChange, before)
		}
	}
	if _, err := maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		return "", err
	}
	return before, restartController(ctx)
}

func restartController(ctx context.Context) error {
	if _, err := sandbox.Kubectl(ctx, "-n", cluster.ProductNamespace, "rollout", "restart", cluster.ProductDeployment); err != nil {
		return err
	}
	_, err := sandbox.Kubectl(ctx, "-n", cluster.ProductNamespace, "rollout", "status", cluster.ProductDeployment, "--timeout=120s")
	return err
}
