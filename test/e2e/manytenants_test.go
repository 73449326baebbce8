//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// guide is the page that an administrator of many tenants follows, with what it has one write into
// files, and its commands.
type guide struct {
	policy, component, settings string
	commands                    []string
}

// readGuide reads the page. The commands are of kubectl, without its name.
func readGuide(t *testing.T) (g guide) {
	t.Helper()
	page, err := os.ReadFile("../../docs/how-to/many-tenants.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples []string
	for i, text := range strings.Split(string(page), "   ```") {
		language, block, _ := strings.Cut(text, "\n")
		block = strings.TrimPrefix(strings.ReplaceAll("\n"+block, "\n   ", "\n"), "\n")
		switch {
		case i%2 == 0: // between examples
		case language == "yaml":
			examples = append(examples, block)
		case language == "sh":
			for line := range strings.Lines(block) {
				g.commands = append(g.commands, strings.TrimPrefix(strings.TrimSpace(line), "kubectl "))
			}
		}
	}
	if len(examples) != 3 || len(g.commands) != 5 {
		t.Fatalf("the guide has %d examples of files and the commands %q; this test follows three and five", len(examples), g.commands)
	}
	g.policy, g.component, g.settings = examples[0], examples[1], examples[2]
	return g
}

// overlay is a copy of the sandbox's overlay, and of the component that the guide has one edit.
type overlay struct{ dir, component string }

// copyOverlay makes a copy of the overlay. When the test ends, the original is applied again.
func copyOverlay(t *testing.T) overlay {
	t.Helper()
	const original, component = "../sandbox/manifests/gce", "../../manifests/components/admission"
	o := overlay{dir: t.TempDir()}
	manifests, err := filepath.Abs("../../manifests")
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(o.dir, manifests)
	if err != nil {
		t.Fatal(err)
	}
	o.component = filepath.Join(o.dir, "admission")
	for to, from := range map[string]string{o.dir: original, o.component: component} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	o.edit(t, "kustomization.yaml", "../../../../manifests", relative)
	t.Cleanup(func() {
		for _, args := range [][]string{
			{"delete", "-f", filepath.Join(component, "policy.yaml"), "--ignore-not-found"},
			{"apply", "-k", original},
			{"-n", cluster.ProductNamespace, "rollout", "status", cluster.ProductDeployment, "--timeout=120s"},
		} {
			if out, err := sandbox.Kubectl(context.WithoutCancel(t.Context()), args...); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	return o
}

// edit replaces text in a file of the overlay.
func (o overlay) edit(t *testing.T, file, old, replacement string) {
	t.Helper()
	path := filepath.Join(o.dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, replacement)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs commands of the guide on the overlay, and returns what the last one prints.
func (o overlay) run(t *testing.T, commands ...string) (out string, err error) {
	t.Helper()
	for _, command := range commands {
		words := strings.Fields(strings.ReplaceAll(command, "manifests/overlays/gce", o.dir))
		if out, err = sandbox.Kubectl(t.Context(), words...); err != nil {
			return "", fmt.Errorf("kubectl %s: %w: %s", command, err, out)
		}
	}
	return out, nil
}

func TestTheGuideForManyTenants(t *testing.T) {
	page, o, ns := readGuide(t), copyOverlay(t), newNamespace(t)
	newBackend(t, ns, "web")
	running := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, 80))
	wantAddresses(t, running, time.Minute, externalIPs()...)

	o.edit(t, "cloud-config.yaml", "\nloadBalancer:\n", "\n"+page.policy)
	if _, err := o.run(t, page.commands[:2]...); err != nil {
		t.Fatal(err)
	}
	wantPolicy(t, running)
	events, err := o.run(t, page.commands[2])
	if err != nil || !strings.Contains(events, "service/refused") {
		t.Errorf("the guide's command does not list the Service: %v\n%s", err, events)
	}

	old := newService(t, ns, "old", withAnnotation("hostport-ccm.io/max-nodes", "many"), servicePort(v1.ProtocolTCP, freePort()))
	o.edit(t, "kustomization.yaml", "components:\n", strings.ReplaceAll(page.component, "../../components/", ""))
	o.setSettings(t, page.settings)
	if _, err := o.run(t, page.commands[3]); err != nil {
		t.Fatal(err)
	}
	wantAdmission(t, ns, func() error {
		_, err := o.run(t, page.commands[4])
		return err
	})
	wantOldServiceEditable(t, old)
}

// setSettings replaces settings of the component by those of an example.
func (o overlay) setSettings(t *testing.T, example string) {
	t.Helper()
	path := filepath.Join(o.component, "settings.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var settings, written v1.ConfigMap
	if err := yaml.Unmarshal(text, &settings); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte("data:\n  "+strings.ReplaceAll(example, "\n", "\n  ")), &written); err != nil {
		t.Fatal(err)
	}
	maps.Copy(settings.Data, written.Data)
	if text, err = yaml.Marshal(settings); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantPolicy checks that a Service from before the policy is served until it is edited, and that a
// new one outside of it is refused.
func wantPolicy(t *testing.T, running *v1.Service) {
	t.Helper()
	wantWarning(t, running, "InvalidConfiguration", "port 80/TCP", "loadBalancer.policy.ports")
	wantAddresses(t, running, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 80, externalIPs()...)

	refused := newService(t, running.Namespace, "refused", withAnnotation("hostport-ccm.io/firewall", "none"), servicePort(v1.ProtocolTCP, 443))
	wantWarning(t, refused, "InvalidConfiguration", "port 443/TCP", "loadBalancer.policy.firewallNamespaces")
	wantNoProxies(t, refused)

	another := freePort()
	editService(t, running, func(s *v1.Service) { s.Spec.Ports = []v1.ServicePort{servicePort(v1.ProtocolTCP, another)} })
	wantOpen(t, getTCP, "web", another, externalIPs()...)
	wantClosed(t, getTCP, 80, externalIPs()...)
}

// wantAdmission checks what the API server admits. create runs the guide's last command, which
// creates a Service with port 53 on trial.
func wantAdmission(t *testing.T, ns string, create func() error) {
	t.Helper()
	// The API server takes a moment to enforce a new policy.
	eventually(t, time.Minute, "kubectl refuses a reserved port", func(context.Context) error {
		err := create()
		if err == nil {
			return errors.New("it accepts the port")
		}
		if want := "port 53/TCP is reserved for DNS"; !strings.Contains(err.Error(), want) {
			t.Fatalf("got %v, want %q in it", err, want)
		}
		return nil
	})
	for port, refused := range map[string]bool{"5354": false, "443": true} {
		out, err := sandbox.Kubectl(t.Context(), "-n", ns, "create", "service", "loadbalancer", "new", "--tcp="+port+":8080", "--dry-run=server")
		if (err != nil) != refused {
			t.Errorf("kubectl create service with port %s: %v, %s", port, err, out)
		}
	}
	if out, err := sandbox.Kubectl(t.Context(), "-n", ns, "annotate", "service", "old", "hostport-ccm.io/maxnodes=3"); err == nil || !strings.Contains(err.Error()+out, "is unknown") {
		t.Errorf("kubectl accepts an unknown annotation: %v, %s", err, out)
	}
	port := freePort()
	newService(t, ns, "served", func(s *v1.Service) {
		s.Spec.Selector = map[string]string{"app": "web"}
		withAnnotation("hostport-ccm.io/max-nodes", "1")(s)
	}, servicePort(v1.ProtocolTCP, port))
	wantOpen(t, getTCP, "web", port, externalIPs()[0])
}

// wantOldServiceEditable checks that a Service from before the admission policy, which it would
// refuse, can be edited otherwise and deleted.
func wantOldServiceEditable(t *testing.T, old *v1.Service) {
	t.Helper()
	if out, err := sandbox.Kubectl(t.Context(), "-n", old.Namespace, "label", "service", old.Name, "a=b"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if err := client.CoreV1().Services(old.Namespace).Delete(t.Context(), old.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, old)
}
