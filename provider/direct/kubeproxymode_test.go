package direct

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiversion "k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

// kubeProxyConfig returns the ConfigMap that kubeadm creates for kube-proxy.
func kubeProxyConfig(text string) *v1.ConfigMap {
	return &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy"},
		Data:       map[string]string{"config.conf": text},
	}
}

func inMode(mode string) *v1.ConfigMap {
	return kubeProxyConfig("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.244.0.0/16\nmode: \"" + mode + "\"\n")
}

func TestTheModeOfKubeProxyIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		configMap *v1.ConfigMap
		want      config.KubeProxyMode
		unknown   string
	}{
		"by default iptables": {inMode(""), config.KubeProxyIPTables, ""},
		"iptables":            {inMode("iptables"), config.KubeProxyIPTables, ""},
		"nftables":            {inMode("nftables"), config.KubeProxyNFTables, ""},
		"ipvs":                {inMode("ipvs"), config.KubeProxyIPVS, ""},
		"an unknown mode":     {inMode("userspace"), "", `mode "userspace"`},
		"another kind":        {kubeProxyConfig("kind: Other"), "", "no KubeProxyConfiguration"},
		"invalid YAML":        {kubeProxyConfig("\t"), "", "no KubeProxyConfiguration"},
		"no ConfigMap":        {nil, "", "there is no ConfigMap kube-system/kube-proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			kube := fake.NewClientset()
			if c.configMap != nil {
				kube = fake.NewClientset(c.configMap)
			}
			k := NewKubeProxyMode(kube, "")
			if _, err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			mode, unknown := k.Get()
			if mode != c.want || !strings.Contains(unknown, c.unknown) || (unknown == "") != (c.unknown == "") {
				t.Errorf("got %q, %q", mode, unknown)
			}
		})
	}
}

func TestAnEmptyModeIsNotKnownWhereTheDefaultMayBeNFTables(t *testing.T) {
	for version, want := range map[string]config.KubeProxyMode{
		"v1.37.2": config.KubeProxyIPTables, "v1.39.0-gke.1": config.KubeProxyIPTables, "v1.40.0": "", "v1.40.0-alpha.1": "", "v2.0.0": "",
	} {
		kube := fake.NewClientset(inMode(""))
		kube.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &apiversion.Info{GitVersion: version}
		k := NewKubeProxyMode(kube, "")
		if _, err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		mode, unknown := k.Get()
		if mode != want || strings.Contains(unknown, "sets no mode") != (want == "") {
			t.Errorf("Kubernetes %s: got %q, %q", version, mode, unknown)
		}
	}
}

func TestAModeCountsWhenThePodsOfKubeProxyAreReplaced(t *testing.T) {
	at := func(second int64) metav1.Time { return metav1.Unix(1_700_000_000+second, 0) }
	write := func(mode string, times ...int64) *v1.ConfigMap {
		m := inMode(mode)
		m.CreationTimestamp = at(0)
		for _, second := range times {
			m.ManagedFields = append(m.ManagedFields, metav1.ManagedFieldsEntry{Manager: "m", Time: new(at(second))})
		}
		return m
	}
	pod := func(name string, created int64, phase v1.PodPhase) *v1.Pod {
		return &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, Labels: map[string]string{"k8s-app": "kube-proxy"}, CreationTimestamp: at(created)},
			Status:     v1.PodStatus{Phase: phase},
		}
	}
	other, lost := pod("other", 1, v1.PodRunning), pod("lost", 1, v1.PodRunning)
	other.Labels, lost.DeletionTimestamp, lost.Finalizers = nil, new(at(2)), []string{"example.com/kept-by-the-fake"}
	// The fake would replace the times of managedFields.
	written := write("iptables", 5)
	kube := fake.NewClientset(pod("one", 5, v1.PodRunning), pod("two", 7, v1.PodRunning), pod("ended", 1, v1.PodFailed), other, lost)
	kube.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) { return true, written, nil })
	refresh := func(k *KubeProxyMode, want config.KubeProxyMode, reason string) {
		t.Helper()
		if _, err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if mode, unknown := k.Get(); mode != want || !strings.Contains(unknown, reason) {
			t.Errorf("got %q, %q, want %q, %q", mode, unknown, want, reason)
		}
	}
	replace := func(name string) {
		t.Helper()
		pods := kube.CoreV1().Pods("kube-system")
		if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := pods.Create(t.Context(), pod(name, 20, v1.PodPending), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	k := NewKubeProxyMode(kube, "")
	refresh(k, config.KubeProxyIPTables, "")
	written = write("ipvs", 5, 10, 3)
	refresh(k, config.KubeProxyIPTables, "")
	refresh(NewKubeProxyMode(kube, ""), "", "rollout restart daemonset kube-proxy")
	replace("one")
	refresh(k, config.KubeProxyIPTables, "")
	replace("two")
	refresh(k, config.KubeProxyIPVS, "")
	refresh(NewKubeProxyMode(kube, ""), config.KubeProxyIPVS, "")
	// Any other change of the configuration leaves the mode as it is.
	written = write("ipvs", 30)
	refresh(k, config.KubeProxyIPVS, "")
}

func TestTheLastKnownModeIsUsedWhileTheAPIServerFails(t *testing.T) {
	kube := fake.NewClientset(inMode("nftables"))
	failure := apierrors.NewServiceUnavailable("down")
	kube.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) { return failure != nil, nil, failure })
	k := NewKubeProxyMode(kube, "")
	refresh := func(wantChange, wantError bool, want config.KubeProxyMode) {
		t.Helper()
		changed, err := k.Refresh(t.Context())
		if mode, _ := k.Get(); changed != wantChange || (err != nil) != wantError || mode != want {
			t.Errorf("changed %t, error %v, mode %q", changed, err, mode)
		}
	}
	refresh(false, true, "")
	failure = nil
	refresh(true, false, config.KubeProxyNFTables)
	refresh(false, false, config.KubeProxyNFTables)
	failure = apierrors.NewServiceUnavailable("down")
	refresh(false, true, config.KubeProxyNFTables)
	failure = apierrors.NewForbidden(v1.Resource("configmaps"), "kube-proxy", nil)
	refresh(false, true, config.KubeProxyNFTables)
	failure = nil
	refresh(false, false, config.KubeProxyNFTables)
	failure = apierrors.NewForbidden(v1.Resource("configmaps"), "kube-proxy", nil)
	refresh(false, true, config.KubeProxyNFTables)
	refresh(true, false, "")
}

func TestAChangedModeIsReportedOnce(t *testing.T) {
	kube := fake.NewClientset(inMode("ipvs"))
	var reads atomic.Int32
	kube.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		// The first read is at the start; its result is not reported.
		if reads.Add(1) > 1 {
			return true, inMode("nftables"), nil
		}
		return false, nil, nil
	})
	changed := make(chan bool)
	k := NewKubeProxyMode(kube, "")
	k.period = time.Millisecond
	k.Run(t.Context(), func() { changed <- true })
	<-changed
	if mode, _ := k.Get(); mode != config.KubeProxyNFTables {
		t.Errorf("mode %q", mode)
	}
}

func TestTheCloudConfigTakesPrecedence(t *testing.T) {
	k := NewKubeProxyMode(fake.NewClientset(inMode("ipvs")), config.KubeProxyNFTables)
	changed, err := k.Refresh(t.Context())
	if mode, _ := k.Get(); changed || err != nil || mode != config.KubeProxyNFTables {
		t.Errorf("mode %q", mode)
	}
}
