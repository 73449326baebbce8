package provider

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

// kubeProxyConfig is what kubeadm writes.
func kubeProxyConfig(text string) *v1.ConfigMap {
	return &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy"},
		Data:       map[string]string{"config.conf": text},
	}
}

func inMode(mode string) *v1.ConfigMap {
	return kubeProxyConfig("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.244.0.0/16\nmode: \"" + mode + "\"\n")
}

func TestTheModeOfKubeProxyIsFoundOut(t *testing.T) {
	for name, c := range map[string]struct {
		configMap *v1.ConfigMap
		want      config.KubeProxyMode
		unknown   string
	}{
		"by default iptables":           {inMode(""), config.KubeProxyIPTables, ""},
		"iptables":                      {inMode("iptables"), config.KubeProxyIPTables, ""},
		"nftables":                      {inMode("nftables"), config.KubeProxyNFTables, ""},
		"ipvs":                          {inMode("ipvs"), config.KubeProxyIPVS, ""},
		"a mode that nobody knows":      {inMode("userspace"), "", `mode "userspace"`},
		"something else":                {kubeProxyConfig("kind: Other"), "", "no KubeProxyConfiguration"},
		"no YAML":                       {kubeProxyConfig("\t"), "", "no KubeProxyConfiguration"},
		"a ConfigMap that is not there": {nil, "", "there is no ConfigMap kube-system/kube-proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			kube := fake.NewClientset()
			if c.configMap != nil {
				kube = fake.NewClientset(c.configMap)
			}
			k := &kubeProxy{kube: kube}
			if _, err := k.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			mode, unknown := k.is()
			if mode != c.want || !strings.Contains(unknown, c.unknown) || (unknown == "") != (c.unknown == "") {
				t.Errorf("got %q, %q", mode, unknown)
			}
		})
	}
}

func TestTheLastKnownModeHoldsWhileTheAPIIsInTrouble(t *testing.T) {
	kube := fake.NewClientset(inMode("nftables"))
	trouble := apierrors.NewServiceUnavailable("down")
	kube.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) { return trouble != nil, nil, trouble })
	k := &kubeProxy{kube: kube}
	look := func(news, fails bool, want config.KubeProxyMode) {
		t.Helper()
		changed, err := k.look(t.Context())
		if mode, _ := k.is(); changed != news || (err != nil) != fails || mode != want {
			t.Errorf("changed %t, error %v, mode %q", changed, err, mode)
		}
	}
	look(false, true, "")
	trouble = nil
	look(true, false, config.KubeProxyNFTables)
	look(false, false, config.KubeProxyNFTables)
	trouble = apierrors.NewServiceUnavailable("down")
	look(false, true, config.KubeProxyNFTables)
	trouble = apierrors.NewForbidden(v1.Resource("configmaps"), "kube-proxy", nil)
	look(false, true, config.KubeProxyNFTables)
	trouble = nil
	look(false, false, config.KubeProxyNFTables)
	trouble = apierrors.NewForbidden(v1.Resource("configmaps"), "kube-proxy", nil)
	look(false, true, config.KubeProxyNFTables)
	look(true, false, "")
}

func TestAChangedModeIsToldOnce(t *testing.T) {
	kube := fake.NewClientset(inMode("ipvs"))
	var looks atomic.Int32
	kube.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		// The first look is at the start, and tells nobody.
		if looks.Add(1) > 1 {
			return true, inMode("nftables"), nil
		}
		return false, nil, nil
	})
	told := make(chan bool)
	k := &kubeProxy{kube: kube}
	k.run(t.Context(), time.Millisecond, func() { told <- true })
	<-told
	if mode, _ := k.is(); mode != config.KubeProxyNFTables {
		t.Errorf("mode %q", mode)
	}
}

func TestWhatTheCloudConfigSaysGoesFirst(t *testing.T) {
	k := &kubeProxy{kube: fake.NewClientset(inMode("ipvs")), told: config.KubeProxyNFTables}
	changed, err := k.look(t.Context())
	if mode, _ := k.is(); changed || err != nil || mode != config.KubeProxyNFTables {
		t.Errorf("mode %q", mode)
	}
}
