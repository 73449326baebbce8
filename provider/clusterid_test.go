package provider

import (
	"context"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// systemUID has the length of a real UID.
const systemUID = "0b5c3a0e-71d2-4c57-9d3f-3f1d0f6f2f11"

func systemNamespace(uid string) *v1.Namespace {
	return &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, UID: types.UID(uid)}}
}

func TestTwoClustersWithTheSameConfigHaveDifferentIDs(t *testing.T) {
	longest := strings.Repeat("a", 26) // The longest id that package config accepts.
	one, err := clusterID(t.Context(), fake.NewClientset(systemNamespace(systemUID)), longest)
	if err != nil {
		t.Fatal(err)
	}
	other, err := clusterID(t.Context(), fake.NewClientset(systemNamespace("1"+systemUID[1:])), longest)
	if err != nil {
		t.Fatal(err)
	}
	if one == other || !strings.HasPrefix(one, longest) {
		t.Errorf("two clusters have the ids %s and %s", one, other)
	}
	if problems := validation.IsValidLabelValue(one); len(problems) > 0 {
		t.Errorf("%s is not a valid label value: %v", one, problems)
	}
	svc := service("web")
	ours, theirs := plan.Settings{ClusterID: one}.Owner(svc), plan.Settings{ClusterID: other}.Owner(svc)
	if firewall.RuleName(ours, firewall.IPv4) == firewall.RuleName(theirs, firewall.IPv4) {
		t.Error("the firewall rules of both clusters have the same name")
	}
}

func TestTheClusterIDIsReadOnceTheAPIServerIsAvailable(t *testing.T) {
	for name, failure := range map[string]struct {
		times int
		err   error
		want  string
	}{
		"unavailable at first": {3, apierrors.NewServiceUnavailable("starting"), "alpha-" + systemUID},
		"no permission":        {1, apierrors.NewForbidden(v1.Resource("namespaces"), metav1.NamespaceSystem, nil), ""},
	} {
		t.Run(name, func(t *testing.T) {
			kube := fake.NewClientset(systemNamespace(systemUID))
			remaining := failure.times
			kube.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
				remaining--
				return remaining >= 0, nil, failure.err
			})
			got, err := clusterID(t.Context(), kube, "alpha")
			if got != failure.want || (err == nil) == (failure.want == "") {
				t.Errorf("got %q, %v, want %q", got, err, failure.want)
			}
		})
	}
}

func TestAnUnknownClusterIDIsAnError(t *testing.T) {
	for name, kube := range map[string]*fake.Clientset{
		"no namespace kube-system":  fake.NewClientset(),
		"a namespace without a UID": fake.NewClientset(systemNamespace("")),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			kube.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
				cancel()
				return false, nil, nil
			})
			if id, err := clusterID(ctx, kube, "alpha"); err == nil || id != "" || !strings.Contains(err.Error(), metav1.NamespaceSystem) {
				t.Errorf("got %q, %v", id, err)
			}
		})
	}
}
