//go:build e2e

package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"
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
	original, err := sandbox.EditCloudConfig(ctx, change)
	if err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if _, err := sandbox.EditCloudConfig(ctx, func(string) string { return original }); err != nil {
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
