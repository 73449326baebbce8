//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDirectMirrorIsRestored(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", withDatapath(options.DatapathDirect), servicePort(v1.ProtocolTCP, int32(port)))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	internal := ips(cluster.Nodes(cluster.GCE), internalIP)
	mirror := wantMirror(t, svc, int32(port), internal...)
	if !metav1.IsControlledBy(mirror, svc) || *mirror.Spec.LoadBalancerClass != plan.MirrorClass || mirror.Spec.Ports[0].NodePort != 0 ||
		mirror.Annotations["external-dns.alpha.kubernetes.io/controller"] != plan.ManagedBy {
		t.Errorf("the mirror is not owned, not hidden, or has node ports: %+v", mirror)
	}
	steady(t, 3*time.Second, "the mirror's resource version", func() error {
		now, err := mirrorOf(t.Context(), svc)
		if err == nil && now.ResourceVersion != mirror.ResourceVersion {
			err = errors.New("it was written again")
		}
		return err
	})

	services := client.CoreV1().Services(ns)
	edited := mirror.DeepCopy()
	edited.Spec.Ports[0].Port = 10250
	if _, err := services.Update(t.Context(), edited, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user may set the mirror's port to the kubelet's: %v", err)
	}
	edited = mirror.DeepCopy()
	edited.Labels, edited.Annotations = nil, nil
	if _, err := services.Update(t.Context(), edited, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := wantMirror(t, svc, int32(port), internal...); again.UID != mirror.UID || len(again.Annotations) != len(mirror.Annotations) {
		t.Errorf("the edited mirror was not restored but became %+v", again)
	}
	withoutPolicy(t)
	edited = mirror.DeepCopy()
	edited.ResourceVersion, edited.Spec.Ports[0].Port, edited.Spec.AllocateLoadBalancerNodePorts = "", int32(freePort()), nil
	eventually(t, time.Minute, "the mirror's ports are edited", func(ctx context.Context) error {
		_, err := services.Update(ctx, edited, metav1.UpdateOptions{})
		return err
	})
	if again := wantMirror(t, svc, int32(port), internal...); again.UID != mirror.UID || again.Spec.Ports[0].NodePort != 0 {
		t.Errorf("the edited mirror was not restored but became %+v", again)
	}
	if err := services.Delete(t.Context(), mirror.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := wantMirror(t, svc, int32(port), internal...); again.UID == mirror.UID {
		t.Error("the mirror was not deleted")
	}
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
}

// wantMirror waits until a Service's mirror has this first port and exactly these addresses in its
// status.
func wantMirror(t *testing.T, svc *v1.Service, port int32, want ...string) (mirror *v1.Service) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the mirror of Service %s has addresses %v", svc.Name, want), func(ctx context.Context) (err error) {
		if mirror, err = mirrorOf(ctx, svc); err != nil {
			return err
		}
		var got []string
		for _, entry := range mirror.Status.LoadBalancer.Ingress {
			got = append(got, entry.IP)
		}
		if !slices.Equal(got, want) || mirror.Spec.Ports[0].Port != port {
			return fmt.Errorf("it has addresses %v, ports %v", got, mirror.Spec.Ports)
		}
		return nil
	})
	return mirror
}

// mirrorOf returns a Service's only mirror.
func mirrorOf(ctx context.Context, svc *v1.Service) (*v1.Service, error) {
	list, err := client.CoreV1().Services(svc.Namespace).List(ctx, ownedBy(svc))
	if err != nil {
		return nil, err
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("there are %d mirrors", len(list.Items))
	}
	return &list.Items[0], nil
}

// withoutPolicy removes the admission policy for mirrors until the test ends.
func withoutPolicy(t *testing.T) {
	t.Helper()
	bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	binding, err := bindings.Get(t.Context(), "hostport-ccm-mirrors", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := bindings.Delete(t.Context(), binding.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		binding.ResourceVersion = ""
		if _, err := bindings.Create(context.WithoutCancel(t.Context()), binding, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})
}
