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
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", withDatapath(options.DatapathDirect), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	internal := ips(cluster.Nodes(cluster.GCE), internalIP)
	mirror := wantMirror(t, svc, port, internal...)
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

	wantWritesRefused(t, mirror)
	services := asHostportCCM(t).CoreV1().Services(ns)
	edited := mirror.DeepCopy()
	edited.ResourceVersion, edited.Labels, edited.Annotations, edited.OwnerReferences = "", nil, nil, nil
	if _, err := services.Update(t.Context(), edited, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := wantMirror(t, svc, port, internal...); again.UID != mirror.UID || len(again.Annotations) != len(mirror.Annotations) || !metav1.IsControlledBy(again, svc) {
		t.Errorf("the edited mirror was not restored but became %+v", again)
	}
	edited = mirror.DeepCopy()
	edited.ResourceVersion, edited.Spec.Ports[0].Port, edited.Spec.AllocateLoadBalancerNodePorts = "", int32(freePort()), nil
	if _, err := services.Update(t.Context(), edited, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := wantMirror(t, svc, port, internal...); again.UID != mirror.UID || again.Spec.Ports[0].NodePort != 0 {
		t.Errorf("the edited mirror was not restored but became %+v", again)
	}
	if err := services.Delete(t.Context(), mirror.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := wantMirror(t, svc, port, internal...); again.UID == mirror.UID {
		t.Error("the mirror was not deleted")
	}
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
}

// wantWritesRefused checks that the API server refuses what users write to a mirror.
func wantWritesRefused(t *testing.T, mirror *v1.Service) {
	t.Helper()
	services := client.CoreV1().Services(mirror.Namespace)
	for what, change := range map[string]func(*v1.Service){
		"set its port to kube-proxy's": func(svc *v1.Service) { svc.Spec.Ports[0].Port = 10256 },
		"remove its labels and owner":  func(svc *v1.Service) { svc.Labels, svc.OwnerReferences = nil, nil },
		"remove its owner":             func(svc *v1.Service) { svc.OwnerReferences = nil },
		"add a finalizer":              func(svc *v1.Service) { svc.Finalizers = []string{"example.com/hold"} },
	} {
		edited := mirror.DeepCopy()
		change(edited)
		if _, err := services.Update(t.Context(), edited, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("a user may %s: %v", what, err)
		}
		if _, err := services.UpdateStatus(t.Context(), edited, metav1.UpdateOptions{}); edited.Spec.Ports[0].Port != 10256 && !apierrors.IsForbidden(err) {
			t.Errorf("a user may %s through the status: %v", what, err)
		}
	}
	created := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "forged"}, Spec: v1.ServiceSpec{
		Type: v1.ServiceTypeLoadBalancer, LoadBalancerClass: mirror.Spec.LoadBalancerClass, Ports: []v1.ServicePort{servicePort(v1.ProtocolTCP, 10256)},
	}}
	if _, err := services.Create(t.Context(), created, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user may create a mirror: %v", err)
	}
	if err := services.Delete(t.Context(), mirror.Name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user may delete a mirror: %v", err)
	}
}

func TestDirectMirrorWithoutItsServiceIsRemoved(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", withDatapath(options.DatapathDirect), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	nodes := cluster.Nodes(cluster.GCE)
	mirror := wantMirror(t, svc, port, ips(nodes, internalIP)...)
	ask := func(ctx context.Context) error {
		_, err := askTCP(ctx, from(nodes[1].Name), nodes[0].InternalIP, port, askHostname)
		return err
	}
	eventually(t, time.Minute, "kube-proxy serves the mirror", ask)

	t.Cleanup(func() { scaleController(t, replicas) })
	scaleController(t, 0)
	stray := mirror.DeepCopy()
	stray.ResourceVersion, stray.Labels, stray.OwnerReferences = "", nil, nil
	if _, err := asHostportCCM(t).CoreV1().Services(ns).Update(t.Context(), stray, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	deleteWithoutFinalizers(t, svc)
	eventually(t, time.Minute, "kube-proxy still serves the mirror", ask)
	scaleController(t, replicas)
	eventually(t, 2*time.Minute, "the mirror is removed", func(ctx context.Context) error {
		_, err := client.CoreV1().Services(ns).Get(ctx, mirror.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
	eventually(t, time.Minute, "kube-proxy serves it no more", func(ctx context.Context) error {
		if ask(ctx) == nil {
			return errors.New("it does")
		}
		return nil
	})
}

func TestDirectServiceIsDeletedWithoutTheRightToDeleteItsMirror(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", withDatapath(options.DatapathDirect), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	revokeMirrorRights(t, ns)
	editService(t, svc, func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeClusterIP })
	wantMirror(t, svc, port)
	wantClosed(t, getTCP, port, externalIPs()...)
	deleteService(t, svc)
	wantNothingLeft(t, svc)
}

// wantMirror waits until a Service's mirror has this first port and exactly these addresses in its
// status.
func wantMirror(t *testing.T, svc *v1.Service, port int, want ...string) (mirror *v1.Service) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the mirror of Service %s has addresses %v", svc.Name, want), func(ctx context.Context) (err error) {
		if mirror, err = mirrorOf(ctx, svc); err != nil {
			return err
		}
		var got []string
		for _, entry := range mirror.Status.LoadBalancer.Ingress {
			got = append(got, entry.IP)
		}
		if !slices.Equal(got, want) || mirror.Spec.Ports[0].Port != int32(port) {
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
