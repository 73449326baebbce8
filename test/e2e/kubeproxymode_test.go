//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/direct"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// The kube-proxies of the sandbox are no pods, so the test makes one that looks like theirs.
func TestTheModeOfKubeProxyCountsWithItsPods(t *testing.T) {
	t.Parallel()
	mode := string(sandbox.KubeProxyMode())
	before := direct.NewKubeProxyMode(client, "")
	wantKubeProxyMode(t, before, mode, "")
	createKubeProxyPod(t)
	time.Sleep(2 * time.Second) // The times of objects have a resolution of one second.
	editKubeProxyConfig(t)
	wantKubeProxyMode(t, before, mode, "")
	wantKubeProxyMode(t, direct.NewKubeProxyMode(client, ""), "", "pod "+kubeProxyPod+" is older than the last change of ConfigMap kube-system/kube-proxy")
	deleteKubeProxyPod(t)
	createKubeProxyPod(t)
	wantKubeProxyMode(t, direct.NewKubeProxyMode(client, ""), mode, "")
}

func wantKubeProxyMode(t *testing.T, k *direct.KubeProxyMode, want, reason string) {
	t.Helper()
	if _, err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mode, unknown := k.Get(); string(mode) != want || !strings.Contains(unknown, reason) {
		t.Errorf("the mode is %q, unknown because %q; want %q, %q", mode, unknown, want, reason)
	}
}

const kubeProxyPod = "kube-proxy-e2e"

func createKubeProxyPod(t *testing.T) {
	t.Helper()
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: kubeProxyPod, Labels: map[string]string{"k8s-app": "kube-proxy"}},
		Spec: v1.PodSpec{
			NodeName: "node1", TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{Name: "agnhost", Image: cluster.AgnhostImage, ImagePullPolicy: v1.PullNever, Args: []string{"pause"}}},
		},
	}
	if _, err := client.CoreV1().Pods(metav1.NamespaceSystem).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteKubeProxyPod(t) })
}

// deleteKubeProxyPod deletes the pod if it exists, and waits until it is gone.
func deleteKubeProxyPod(t *testing.T) {
	t.Helper()
	if out, err := sandbox.Kubectl(context.WithoutCancel(t.Context()), "-n", metav1.NamespaceSystem, "delete", "pod", kubeProxyPod, "--ignore-not-found", "--timeout=60s"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// editKubeProxyConfig adds a comment to kube-proxy's configuration, until the test ends.
func editKubeProxyConfig(t *testing.T) {
	t.Helper()
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	write := func(change func(string) string) error {
		m, err := maps.Get(context.WithoutCancel(t.Context()), "kube-proxy", metav1.GetOptions{})
		if err != nil {
			return err
		}
		m.Data["config.conf"] = change(m.Data["config.conf"])
		_, err = maps.Update(context.WithoutCancel(t.Context()), m, metav1.UpdateOptions{})
		return err
	}
	const comment = "# edited\n"
	if err := write(func(text string) string { return comment + text }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := write(func(text string) string { return strings.TrimPrefix(text, comment) }); err != nil {
			t.Error(err)
		}
	})
}
