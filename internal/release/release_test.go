package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/internal/oci"
	"github.com/hostport-ccm/hostport-ccm/internal/product"
	"github.com/hostport-ccm/hostport-ccm/internal/version"
)

const (
	module      = "../.."
	testVersion = "v9.8.7-rc.1"
)

// thing is a small product, of a program without imports.
var thing = product.Product{
	Name: "thing", Description: "A thing.", Limit: 10 << 20,
	Files: func(_ context.Context, arch string) ([]oci.File, []debs.Package, error) {
		return []oci.File{{Path: "/etc/arch", Data: []byte(arch)}}, []debs.Package{{Name: "thing-data", Version: "1-2", Arch: arch, Source: "thing", Distribution: "debian", Release: "12"}}, nil
	},
}

// repository returns a git repository with thing, and the manifests and the chart of this tree.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, folder := range []string{"docs/reference", "internal/version", "manifests", "test/sandbox/manifests", "test/sandbox/tools/helm"} {
		if err := os.CopyFS(filepath.Join(dir, folder), os.DirFS(filepath.Join(module, folder))); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "go.mod", "module example.com/thing\n\ngo 1.26\n")
	write(t, dir, "cmd/thing/main.go", "package main\n\nvar version = \"unknown\"\n\nfunc main() { println(version) }\n")
	write(t, dir, "CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n\n- A thing.\n")
	gitTo(t, dir, "init", "-q")
	commitFile(t, dir, "file")
	return dir
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestASmallRelease(t *testing.T) {
	r := release{module: repository(t), out: t.TempDir(), version: testVersion, products: []product.Product{thing}}
	if err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.out, "release-"+testVersion)
	names, err := fileNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"RELEASE-NOTES.md", "SHA256SUMS", "hostport-ccm-9.8.7-rc.1.tgz", "install-baremetal.yaml", "install-gce.yaml", "install-gke.yaml",
		"thing-v9.8.7-rc.1-amd64.cdx.json", "thing-v9.8.7-rc.1-arm64.cdx.json", "thing-v9.8.7-rc.1.tar",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil || strings.Count(string(out), ": OK\n") != len(want)-1 {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	t.Run("archive", func(t *testing.T) { wantArchive(t, r, filepath.Join(dir, "thing-"+testVersion+".tar")) })
	t.Run("install", func(t *testing.T) { wantInstallFiles(t, dir) })
	t.Run("chart", func(t *testing.T) { wantChart(t, filepath.Join(dir, "hostport-ccm-9.8.7-rc.1.tgz")) })
}

func TestTwoBuildsThatDifferAreNoRelease(t *testing.T) {
	changing, builds := thing, 0
	changing.Files = func(context.Context, string) ([]oci.File, []debs.Package, error) {
		builds++
		return []oci.File{{Path: "/etc/builds", Data: []byte{byte(builds)}}}, nil, nil
	}
	r := release{module: repository(t), out: t.TempDir(), version: testVersion, products: []product.Product{changing}}
	err := r.run(t.Context())
	if err == nil {
		t.Fatal("there is a release")
	}
	for _, want := range []string{"they stay in " + r.out, "thing-v9.8.7-rc.1.tar differs in entry "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error has no %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "install-gce.yaml") {
		t.Errorf("the error names what does not differ: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.out, "release-"+testVersion)); err == nil {
		t.Error("there is the folder of a release")
	}
}

// wantArchive checks that an archive has a valid image index, with a program for each architecture.
func wantArchive(t *testing.T, r release, archive string) {
	unpacked := t.TempDir()
	if out, err := exec.Command("tar", "-xf", archive, "-C", unpacked).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	top, err := layout.ImageIndexFromPath(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(top); err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	index, err := top.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	revision, err := git(t.Context(), r.module, "rev-parse", "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	annotations := map[string]string{
		"org.opencontainers.image.title": "thing", "org.opencontainers.image.description": "A thing.", "org.opencontainers.image.version": testVersion,
		"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.source": "https://github.com/hostport-ccm/hostport-ccm",
		"org.opencontainers.image.revision": revision,
	}
	if diff := cmp.Diff(annotations, manifest.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	machines := map[string]elf.Machine{}
	for _, d := range manifest.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		program, err := elf.NewFile(bytes.NewReader(fileOf(t, img, "thing")))
		if err != nil {
			t.Fatal(err)
		}
		machines[d.Platform.String()] = program.Machine
	}
	if diff := cmp.Diff(map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}, machines); diff != "" {
		t.Errorf("machines of the program (-want +got):\n%s", diff)
	}
}

// fileOf returns a file of an image.
func fileOf(t *testing.T, img v1.Image, name string) []byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	content, err := gzip.NewReader(compressed)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("looking for %s: %v", name, err)
		}
		if h.Name == name {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
}

// configMap is the name of the ConfigMap, which ends with a hash of its content.
var configMap = regexp.MustCompile(`hostport-cloud-config-[a-z0-9]+`)

// wantInstallFiles checks that the install files differ from the overlays in the version only.
func wantInstallFiles(t *testing.T, dir string) {
	tree := build{source: module}
	for profile := range profiles {
		overlay, err := tree.tool(t.Context(), "kustomize", "build", "manifests/overlays/"+profile)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.ReplaceAll(string(overlay), version.Current, testVersion)
		comment, got, _ := strings.Cut(read(t, filepath.Join(dir, "install-"+profile+".yaml")), "apiVersion:")
		got = "apiVersion:" + got
		if diff := cmp.Diff(configMap.ReplaceAllString(want, ""), configMap.ReplaceAllString(got, "")); diff != "" {
			t.Errorf("install-%s.yaml (-overlay +got):\n%s", profile, diff)
		}
		for _, image := range []string{"image: " + product.All[0].Reference(testVersion), "proxyImage: " + product.All[1].Reference(testVersion)} {
			if !strings.Contains(got, image) {
				t.Errorf("install-%s.yaml has no %q", profile, image)
			}
		}
		for line := range strings.Lines(comment) {
			if !strings.HasPrefix(line, "#") || len(line) > 110 {
				t.Errorf("install-%s.yaml: this is no comment, or too long: %q", profile, line)
			}
		}
	}
}

// wantChart checks that the chart passes helm's checks and asks for images of its version.
func wantChart(t *testing.T, chart string) {
	tree := build{source: module}
	chart, err := filepath.Abs(chart)
	if err != nil {
		t.Fatal(err)
	}
	values := []string{"--namespace", "hostport-system", "--values", "manifests/helm/examples/gce.yaml"}
	if _, err := tree.tool(t.Context(), "helm", append([]string{"lint", "--strict", chart}, values...)...); err != nil {
		t.Error(err)
	}
	objects, err := tree.tool(t.Context(), "helm", append([]string{"template", "hostport-ccm", chart}, values...)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range product.All {
		if !strings.Contains(string(objects), ": "+p.Reference(testVersion)+"\n") {
			t.Errorf("the chart's objects do not mention %s", p.Reference(testVersion))
		}
	}
}

func TestOneProfileForEachOverlay(t *testing.T) {
	overlays, err := fileNames(filepath.Join(module, "manifests/overlays"))
	if err != nil {
		t.Fatal(err)
	}
	for _, overlay := range overlays {
		if _, err := (build{version: testVersion}).installHead(overlay); err != nil {
			t.Error(err)
		}
	}
	if len(profiles) != len(overlays) {
		t.Errorf("%d profiles, overlays are %q", len(profiles), overlays)
	}
}
