//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/api/compute/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestOrphansOfAServiceAreGarbageCollected(t *testing.T) {
	port, another := freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	newBackend(t, ns, "kept")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	kept := newService(t, ns, "kept", nil, servicePort(v1.ProtocolTCP, another))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantAddresses(t, kept, time.Minute, externalIPs()...)
	// Another cluster has the same clusterID, but another UID.
	theirs := firewall.Owner{ClusterID: "sandbox-0b5c3a0e-71d2-4c57-9d3f-3f1d0f6f2f11", UID: svc.UID}
	theirs.Service.Namespace, theirs.Service.Name = svc.Namespace, svc.Name
	insertRule(t, &compute.Firewall{
		Name: "another-clusters", Description: firewall.FormatMark(theirs), TargetTags: []string{"another"},
		Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp", Ports: []string{fmt.Sprint(port)}}}, SourceRanges: []string{"0.0.0.0/0"},
	})

	t.Cleanup(func() { scaleController(t, replicas) })
	scaleController(t, 0)
	deleteWithoutFinalizers(t, svc)
	if hasNoOrphans(t.Context(), svc) == nil {
		t.Fatal("there are no orphans to delete")
	}
	scaleController(t, replicas)
	eventually(t, 2*time.Minute, "the orphans are deleted", func(ctx context.Context) error {
		return errors.Join(hasNoOrphansBut(ctx, svc, "another-clusters"), isClosed(ctx, getTCP, externalIPs()[0], port))
	})
	wantEvent(t, svc, "OrphanedResourcesDeleted")
	wantOpen(t, getTCP, "kept", another, externalIPs()...)
}

// deleteWithoutFinalizers deletes a Service after it has removed its finalizers.
func deleteWithoutFinalizers(t *testing.T, svc *v1.Service) {
	t.Helper()
	editService(t, svc, func(s *v1.Service) { s.Finalizers = nil })
	deleteService(t, svc)
	eventually(t, 10*time.Second, "the Service is gone", func(ctx context.Context) error {
		_, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
}

// hasNoOrphansBut is hasNoOrphans with the exception of one rule, which must exist.
func hasNoOrphansBut(ctx context.Context, svc *v1.Service, rule string) error {
	orphans, err := orphansOf(ctx, svc)
	if err == nil && !slices.Equal(orphans, []string{"rule " + rule}) {
		err = fmt.Errorf("these objects exist: %q, want rule %s alone", orphans, rule)
	}
	return err
}

// insertRule creates a firewall rule that is deleted when the test ends.
func insertRule(t *testing.T, rule *compute.Firewall) {
	t.Helper()
	project := projectOwner(t)
	if err := project.InsertFirewall(t.Context(), rule); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := project.DeleteFirewall(context.WithoutCancel(t.Context()), rule.Name); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// projectOwner returns a client of an administrator who changes the project independently of
// hostport-ccm.
func projectOwner(t *testing.T) *gce.Client {
	t.Helper()
	client, err := gce.New(t.Context(), gce.Options{Project: cluster.Project, Network: "default", Endpoint: cluster.SimulatorURL})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
