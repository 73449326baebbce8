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

// projectOwner is somebody who changes the project past hostport-ccm.
func projectOwner(t *testing.T) *gce.Client {
	t.Helper()
	client, err := gce.New(t.Context(), gce.Options{Project: cluster.Project, Network: "default", Endpoint: cluster.SimulatorURL})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// insertRule makes a firewall rule that goes when the test ends.
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

func TestWhatAServiceLeftBehindIsCollected(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	newBackend(t, ns, "kept")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	kept := newService(t, ns, "kept", nil, servicePort(v1.ProtocolTCP, 8081))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantAddresses(t, kept, time.Minute, externalIPs()...)
	// Of a cluster that was given the same id as ours.
	theirs := firewall.Owner{ClusterID: "sandbox-0b5c3a0e-71d2-4c57-9d3f-3f1d0f6f2f11", UID: svc.UID}
	theirs.Service.Namespace, theirs.Service.Name = svc.Namespace, svc.Name
	insertRule(t, &compute.Firewall{
		Name: "another-clusters", Description: firewall.FormatMark(theirs), TargetTags: []string{"another"},
		Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp", Ports: []string{"80"}}}, SourceRanges: []string{"0.0.0.0/0"},
	})

	t.Cleanup(func() { scaleController(t, replicas) })
	scaleController(t, 0)
	removeByForce(t, svc)
	if isLeftBehind(t.Context(), svc) == nil {
		t.Fatal("somebody else has cleaned up")
	}
	scaleController(t, replicas)
	eventually(t, 2*time.Minute, "nothing is left of the Service", func(ctx context.Context) error {
		return errors.Join(isLeftBehindBut(ctx, svc, "another-clusters"), isClosed(ctx, getTCP, externalIPs()[0], 80))
	})
	eventually(t, 30*time.Second, "an event reports the deletion", func(ctx context.Context) error {
		events, err := client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=OrphanedResourcesDeleted,involvedObject.uid=" + string(svc.UID)})
		if err == nil && len(events.Items) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	wantOpen(t, getTCP, "kept", 8081, externalIPs()...)
}

// removeByForce removes a Service as if it had no finalizers.
func removeByForce(t *testing.T, svc *v1.Service) {
	t.Helper()
	editService(t, svc, func(s *v1.Service) { s.Finalizers = nil })
	if err := client.CoreV1().Services(svc.Namespace).Delete(t.Context(), svc.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the Service is gone", func(ctx context.Context) error {
		_, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
}

// isLeftBehindBut is isLeftBehind but for one rule, which has to be there.
func isLeftBehindBut(ctx context.Context, svc *v1.Service, rule string) error {
	left, err := remnants(ctx, svc)
	if err == nil && !slices.Equal(left, []string{"rule " + rule}) {
		err = fmt.Errorf("left are %q, not rule %s alone", left, rule)
	}
	return err
}
