package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

func leaseOf(holder string) *v1.Lease {
	return &v1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ccm"}, Spec: v1.LeaseSpec{HolderIdentity: &holder}}
}

func holder(t *testing.T, kube *fake.Clientset) string {
	t.Helper()
	lease, err := kube.CoordinationV1().Leases("ns").Get(t.Context(), "ccm", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ptr.Deref(lease.Spec.HolderIdentity, "")
}

func TestOnlyItsHolderReleasesTheLease(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		holder, want string
		leads        bool
	}{
		"this replica leads":                             {host + "_1", "", true},
		"this replica led, and another one leads now":    {"other_1", "other_1", true},
		"the host name of the holder begins with ours":   {host + "x_1", host + "x_1", true},
		"this replica is a standby on the leader's host": {host + "_1", host + "_1", false},
	} {
		t.Run(name, func(t *testing.T) {
			kube := fake.NewClientset(leaseOf(c.holder))
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			l := &leaderLease{}
			if c.leads {
				l.acquired(kube, "ns", "ccm", stop)
			}
			if err := l.release(); err != nil {
				t.Error(err)
			}
			if got := holder(t, kube); got != c.want {
				t.Errorf("the holder is %q, want %q", got, c.want)
			}
			if stopped := ctx.Err() != nil; stopped != c.leads {
				t.Errorf("the controller was stopped: %t", stopped)
			}
		})
	}
}

func TestALeaseThatCannotBeReleasedIsNamed(t *testing.T) {
	kube := fake.NewClientset()
	kube.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no API server")
	})
	l := &leaderLease{}
	l.acquired(kube, "ns", "ccm", func() {})
	if err := l.release(); err == nil || !strings.Contains(err.Error(), "ns/ccm") {
		t.Errorf("got %v", err)
	}
}
