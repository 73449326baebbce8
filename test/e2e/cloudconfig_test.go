//go:build e2e

package e2e

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

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
	name, original := cloudConfig(t)
	changed := change(original)
	if changed == original {
		t.Fatalf("the change does not apply to the cloud-config:\n%s", original)
	}
	write := func(content string) error {
		m, err := client.CoreV1().ConfigMaps(cluster.ProductNamespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for key := range m.Data {
			m.Data[key] = content
		}
		_, err = client.CoreV1().ConfigMaps(cluster.ProductNamespace).Update(ctx, m, metav1.UpdateOptions{})
		return errors.Join(err, restartController(ctx))
	}
	if err := write(changed); err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if err := write(original); err != nil {
			t.Errorf("restore the cloud-config: %v", err)
		}
	})
}

func cloudConfig(t *testing.T) (name, content string) {
	t.Helper()
	d, err := client.AppsV1().Deployments(cluster.ProductNamespace).Get(t.Context(), "hostport-ccm", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, volume := range d.Spec.Template.Spec.Volumes {
		if volume.ConfigMap == nil {
			continue
		}
		m, err := client.CoreV1().ConfigMaps(d.Namespace).Get(t.Context(), volume.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, content := range m.Data {
			return m.Name, content
		}
	}
	t.Fatal("the controller manager has no cloud-config")
	return "", ""
}

func restartController(ctx context.Context) error {
	if _, err := sandbox.Kubectl(ctx, "-n", cluster.ProductNamespace, "rollout", "restart", cluster.ProductDeployment); err != nil {
		return err
	}
	_, err := sandbox.Kubectl(ctx, "-n", cluster.ProductNamespace, "rollout", "status", cluster.ProductDeployment, "--timeout=120s")
	return err
}
