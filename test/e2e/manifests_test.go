//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestManifestsAreAcceptedWithoutWarnings sends what users install to the API server, which validates it and
// stores nothing: unknown and deprecated fields, and what its admission refuses, are errors.
func TestManifestsAreAcceptedWithoutWarnings(t *testing.T) {
	t.Parallel()
	// The components of each overlay whose kinds Kubernetes has. On bare metal, datapath direct needs none.
	for name, components := range map[string][]string{
		"gce": {"direct", "admission"}, "gke": {"direct", "admission"}, "baremetal": {"admission"},
	} {
		t.Run(name, func(t *testing.T) {
			wantAccepted(t, "-k", overlayWith(t, name, components))
			dir := t.TempDir()
			wantHelm(t, "template", release, chart, "--values", "manifests/helm/examples/"+name+".yaml",
				"--set", strings.Join(components, ".enabled=true,")+".enabled=true", "--output-dir", dir)
			wantAccepted(t, "-R", "-f", dir)
		})
	}
}

// overlayWith writes a kustomization of an overlay with components.
func overlayWith(t *testing.T, overlay string, components []string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	root, err := filepath.Abs("../../manifests")
	if err != nil {
		t.Fatal(err)
	}
	if root, err = filepath.Rel(dir, root); err != nil { // absolute paths are refused
		t.Fatal(err)
	}
	content := fmt.Sprintf("resources:\n- %s/overlays/%s\ncomponents:\n", root, overlay)
	for _, component := range components {
		content += fmt.Sprintf("- %s/components/%s\n", root, component)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantAccepted(t *testing.T, manifests ...string) {
	t.Helper()
	out, err := sandbox.Kubectl(t.Context(), append([]string{"apply", "--dry-run=server", "--warnings-as-errors"}, manifests...)...)
	if err != nil {
		t.Errorf("%v: %v", manifests, err)
	}
	if objects := strings.Count(out, "(server dry run)"); err == nil && objects < 20 {
		t.Errorf("%v has %d objects only:\n%s", manifests, objects, out)
	}
}
