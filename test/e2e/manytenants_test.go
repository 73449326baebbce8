//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// guide is the page that an administrator of many tenants follows.
const guide = "../../docs/how-to/many-tenants.md"

// policyOfTheGuide returns the part of the cloud config that the guide shows.
func policyOfTheGuide(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "   ```yaml\n")
	block, _, found := strings.Cut(rest, "   ```\n")
	if !found || !strings.HasPrefix(block, "   loadBalancer:\n") {
		t.Fatalf("the guide's first example is no part of a cloud config:\n%s", block)
	}
	return strings.ReplaceAll("\n"+block, "\n   ", "\n")
}

func TestAPolicyRefusesNewServicesAndKeepsWhatRuns(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	running := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, running, time.Minute, externalIPs()...)

	restore := changeCloudConfig(t, func(content string) string {
		return strings.Replace(content, "\nloadBalancer:\n", policyOfTheGuide(t), 1)
	})
	t.Cleanup(restore)
	wantWarning(t, running, "InvalidConfiguration", "port 80/TCP", "loadBalancer.policy.ports")
	wantAddresses(t, running, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 80, externalIPs()...)

	refused := newService(t, ns, "refused", withAnnotation("hostport-ccm.io/firewall", "none"), servicePort(v1.ProtocolTCP, 443))
	wantWarning(t, refused, "InvalidConfiguration", "port 443/TCP", "loadBalancer.policy.firewallNamespaces")
	wantNoProxies(t, refused)

	editService(t, running, func(s *v1.Service) { s.Spec.Ports = []v1.ServicePort{servicePort(v1.ProtocolTCP, 8087)} })
	wantOpen(t, getTCP, "web", 8087, externalIPs()...)
	wantClosed(t, getTCP, 80, externalIPs()...)
	events, err := sandbox.Kubectl(t.Context(), "get", "events", "-A", "--field-selector", "reason=InvalidConfiguration")
	if err != nil || !strings.Contains(events, "service/refused") {
		t.Errorf("the guide's command does not list the Service: %v\n%s", err, events)
	}
}

func TestTheAdmissionPolicyRefusesAtApply(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	old := newService(t, ns, "old", withAnnotation("hostport-ccm.io/max-nodes", "many"), servicePort(v1.ProtocolTCP, 8088))
	for _, file := range []string{"settings.yaml", "policy.yaml"} {
		path := "../../manifests/components/admission/" + file
		if out, err := sandbox.Kubectl(t.Context(), "apply", "-f", path); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := sandbox.Kubectl(context.WithoutCancel(t.Context()), "delete", "-f", path); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	create := func(name, port string) error {
		out, err := sandbox.Kubectl(t.Context(), "-n", ns, "create", "service", "loadbalancer", name, "--tcp="+port+":8080", "--dry-run=server")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	// The API server takes a moment to enforce a new policy.
	eventually(t, time.Minute, "kubectl refuses a reserved port", func(context.Context) error {
		err := create("dns", "53")
		if err == nil {
			return errors.New("it accepts the port")
		}
		if want := "port 53/TCP is reserved for DNS"; !strings.Contains(err.Error(), want) {
			t.Fatalf("got %v, want %q in it", err, want)
		}
		return nil
	})
	if err := create("dns", "5354"); err != nil {
		t.Errorf("kubectl refuses a free port: %v", err)
	}
	if out, err := sandbox.Kubectl(t.Context(), "-n", ns, "annotate", "service", "old", "hostport-ccm.io/maxnodes=3"); err == nil || !strings.Contains(err.Error()+out, "is unknown") {
		t.Errorf("kubectl accepts an unknown annotation: %v, %s", err, out)
	}
	// A Service from before the policy can be edited otherwise, served, and deleted.
	if out, err := sandbox.Kubectl(t.Context(), "-n", ns, "label", "service", "old", "a=b"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	web := newService(t, ns, "web", withAnnotation("hostport-ccm.io/max-nodes", "1"), servicePort(v1.ProtocolTCP, 8089))
	wantOpen(t, getTCP, "web", 8089, externalIPs()[0])
	for _, svc := range []*v1.Service{old, web} {
		if err := client.CoreV1().Services(ns).Delete(t.Context(), svc.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	eventually(t, 2*time.Minute, "both Services are gone", func(ctx context.Context) error {
		list, err := client.CoreV1().Services(ns).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			return fmt.Errorf("%d exist", len(list.Items))
		}
		return err
	})
}
