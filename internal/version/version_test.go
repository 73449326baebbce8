package version

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersionsThatAReleaseMayHave(t *testing.T) {
	for version, want := range map[string]bool{
		"v0.2.0": true, "v1.10.3": true, "v0.1.0-dev": true, "v0.2.0-rc.1": true,
		"": false, "0.2.0": false, "v0.2": false, "v0.2.0.1": false, "v0.02.0": false, "v0.2.0-": false,
		"v0.2.0-rc.01": false, "v0.2.0+build": false, " v0.2.0": false, "v0.2.0 ": false, "v0.2.0\n": false, "latest": false,
	} {
		if err := Check(version); (err == nil) != want {
			t.Errorf("Check(%q) = %v, want valid: %t", version, err, want)
		}
	}
	if IsPrerelease("v0.2.0") || !IsPrerelease("v0.2.0-rc.1") {
		t.Error("v0.2.0 is a prerelease, or v0.2.0-rc.1 is none")
	}
}

const root = "../.."

func TestManifestsChartAndPagesHaveTheVersion(t *testing.T) {
	found := wantEverywhere(t, root, Current)
	want := []string{
		"docs/reference/cloud-config.md", "internal/version/version.go", "manifests/base/deployment.yaml", "manifests/helm/hostport-ccm/Chart.yaml",
	}
	for _, overlays := range []string{"manifests/overlays/*/kustomization.yaml", "manifests/overlays/*/cloud-config.yaml", "test/sandbox/manifests/*/cloud-config.yaml"} {
		paths, err := filepath.Glob(filepath.Join(root, overlays))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no files %s (%v)", overlays, err)
		}
		for _, path := range paths {
			want = append(want, strings.TrimPrefix(path, root+"/"))
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(found))); diff != "" {
		t.Errorf("files with a version (-want +got):\n%s", diff)
	}
}

// wantEverywhere checks that a tree has one version, and returns what was found.
func wantEverywhere(t *testing.T, root, version string) map[string][]string {
	t.Helper()
	found, err := Written(root)
	if err != nil {
		t.Fatal(err)
	}
	for path, versions := range found {
		for _, v := range versions {
			if v != version {
				t.Errorf("%s has version %s, want %s: run make set-version", path, v, version)
			}
		}
	}
	return found
}

func TestSetWritesTheVersionEverywhere(t *testing.T) {
	copied := t.TempDir()
	for _, folder := range folders {
		copyFiles(t, filepath.Join(root, folder), filepath.Join(copied, folder))
	}
	before, err := Written(copied)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"v0.2.0-rc.1", "v10.0.0", "v0.2.1-dev"} {
		if err := Set(copied, version); err != nil {
			t.Fatal(err)
		}
		after := wantEverywhere(t, copied, version)
		for path, versions := range before {
			if len(after[path]) != len(versions) {
				t.Errorf("%s has %d versions, had %d", path, len(after[path]), len(versions))
			}
		}
	}
	chart, err := os.ReadFile(filepath.Join(copied, "manifests/helm/hostport-ccm/Chart.yaml"))
	if err != nil || !strings.Contains(string(chart), "\nversion: 0.2.1-dev\nappVersion: v0.2.1-dev\n") {
		t.Errorf("the chart (%v):\n%s", err, chart)
	}
}

// copyFiles copies regular files, without the symbolic links of the chart.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
