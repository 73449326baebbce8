package provider

import (
	"strings"
	"testing"

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
			k.look(t.Context())
			mode, unknown := k.is()
			if mode != c.want || !strings.Contains(unknown, c.unknown) || (unknown == "") != (c.unknown == "") {
				t.Errorf("got %q, %q", mode, unknown)
			}
		})
	}
}

func TestTheLastKnownModeHoldsWhileTheAPIIsInTrouble(t *testing.T) {
	kube := fake.NewClientset(inMode("nftables"))
	var trouble error
	kube.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) { return trouble != nil, nil, trouble })
	k := &kubeProxy{kube: kube}
	if !k.look(t.Context()) || k.look(t.Context()) {
		t.Error("only the first look brings news")
	}
	trouble = apierrors.NewServiceUnavailable("down")
	if mode, _ := k.is(); k.look(t.Context()) || mode != config.KubeProxyNFTables {
		t.Errorf("mode %q", mode)
	}
	trouble = apierrors.NewForbidden(v1.Resource("configmaps"), "kube-proxy", nil)
	if !k.look(t.Context()) {
		t.Error("a right that is taken away goes unnoticed")
	}
	if mode, unknown := k.is(); mode != "" || !strings.Contains(unknown, "cannot be read") {
		t.Errorf("got %q, %q", mode, unknown)
	}
}

func TestWhatTheCloudConfigSaysGoesFirst(t *testing.T) {
	k := &kubeProxy{kube: fake.NewClientset(inMode("ipvs")), told: config.KubeProxyNFTables}
	if mode, _ := k.is(); k.look(t.Context()) || mode != config.KubeProxyNFTables {
		t.Errorf("mode %q", mode)
	}
}
