package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	reference "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"pgregory.net/rapid"
)

const imageName = "registry.example/group/thing:v1"

func TestLayerHasTheListedFiles(t *testing.T) {
	img := Image{Files: []File{
		{Path: "/usr/bin/program", Mode: 0o755, Data: []byte("program")},
		{Path: "etc/passwd", Data: []byte("root")},
		{Path: "/bin", Symlink: "usr/bin"},
		{Path: "/run", Dir: true},
		{Path: "/tmp", Dir: true, Mode: 0o1777},
		{Path: "/usr/bin/su", Mode: 0o4755},
	}}
	want := []string{
		"bin -> usr/bin 0777 \"\"",
		"etc/ 0755 \"\"",
		"etc/passwd 0644 \"root\"",
		"run/ 0755 \"\"",
		"tmp/ 01777 \"\"",
		"usr/ 0755 \"\"",
		"usr/bin/ 0755 \"\"",
		"usr/bin/program 0755 \"program\"",
		"usr/bin/su 04755 \"\"",
	}
	if diff := cmp.Diff(want, layerContent(t, img)); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func layerContent(t *testing.T, img Image) []string {
	t.Helper()
	built, err := Build(img, gzip.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := built.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var lines []string
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, describeEntry(t, h, archive))
	}
}

func describeEntry(t *testing.T, h *tar.Header, content io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(epoch.Time) {
		t.Errorf("%s: owner %d:%d, time %s; want root and the epoch", h.Name, h.Uid, h.Gid, h.ModTime)
	}
	line := h.Name
	if h.Typeflag == tar.TypeSymlink {
		line += " -> " + h.Linkname
	}
	return fmt.Sprintf("%s %#o %q", line, h.Mode, data)
}

func TestConfigIsAsGiven(t *testing.T) {
	given := v1.Config{
		User: "65532:65532", WorkingDir: "/work", Entrypoint: []string{"/program"}, Cmd: []string{"serve"},
		Env: []string{"A=b"}, Labels: map[string]string{"org.opencontainers.image.title": "thing"},
	}
	withPath := v1.Config{Entrypoint: []string{"/program"}, Env: []string{defaultPath}}
	for _, tt := range []struct {
		name        string
		given, want v1.Config
	}{
		{"with an environment", given, given},
		{"without an environment, but for the usual PATH", v1.Config{Entrypoint: []string{"/program"}}, withPath},
	} {
		t.Run(tt.name, func(t *testing.T) {
			built, err := Build(Image{Arch: "arm64", Config: tt.given}, gzip.DefaultCompression)
			if err != nil {
				t.Fatal(err)
			}
			config, err := built.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			got := []any{config.Architecture, config.OS, config.Created.Time, config.Config}
			if diff := cmp.Diff([]any{"arm64", "linux", epoch.Time, tt.want}, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []File
		want  string
	}{
		{"a file listed twice", []File{{Path: "/a"}, {Path: "a"}}, `adding "a": path listed twice`},
		{"a file below a file", []File{{Path: "/a"}, {Path: "/a/b/c"}}, `adding "a/b/c": a is not a directory`},
		{"a file below a link", []File{{Path: "/lib", Symlink: "usr/lib"}, {Path: "/lib/x"}}, `adding "lib/x": lib is not a directory`},
		{"a path out of the image", []File{{Path: "../a"}}, `adding "../a": invalid path`},
		{"the root itself", []File{{Path: "/"}}, `adding "": invalid path`},
		{"the root itself, relatively", []File{{Path: "."}}, `adding ".": path listed twice, or the root itself`},
		{"a link with content", []File{{Path: "/a", Symlink: "b", Data: []byte("x")}}, `adding "a": archive/tar: write too long`},
		{"a directory with content", []File{{Path: "/a", Dir: true, Data: []byte("x")}}, `adding "a": archive/tar: write too long`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Build(Image{Files: tt.files}, gzip.DefaultCompression)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Build() error = %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestBuildRefusesAnUnknownCompression(t *testing.T) {
	_, err := Build(Image{}, 77)
	if want := "invalid compression level: 77"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Build() error = %v, want one with %q", err, want)
	}
}

func TestWriteFileRefusesNamesThatAreNotFull(t *testing.T) {
	built, err := Build(Image{}, gzip.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"thing:v1", "group/thing:v1", "registry.example/thing"} {
		err := WriteFile(filepath.Join(t.TempDir(), "image.tar"), map[string]v1.Image{name: built})
		want := fmt.Sprintf("image name %q: want a full one, such as registry.example/group/name:tag", name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("WriteFile() error = %v, want one with %q", err, want)
		}
	}
}

func TestSameFilesGiveSameBytesInAnyOrder(t *testing.T) {
	paths := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}(/x[a-z]{1,3}){0,2}`), 0, 8, rapid.ID[string])
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var files []File
		for _, p := range paths.Draw(t, "paths") {
			files = append(files, File{Path: p, Dir: true})
			files = append(files, File{Path: p + "/file", Data: []byte(p)})
		}
		shuffled := rapid.Permutation(files).Draw(t, "shuffled")
		if !bytes.Equal(archiveBytes(t, dir, files), archiveBytes(t, dir, shuffled)) {
			t.Errorf("the order of the files changed the archive")
		}
	})
}

func archiveBytes(t *rapid.T, dir string, files []File) []byte {
	config := v1.Config{Labels: map[string]string{"a": "1", "b": "2", "c": "3"}}
	built, err := Build(Image{Arch: "amd64", Config: config, Files: files}, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]v1.Image{"registry.example/thing:a": built, "registry.example/thing:b": built, "registry.example/thing:c": built}
	archive := filepath.Join(dir, "images.tar")
	if err := WriteFile(archive, images); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestArchiveIsReadByBothKindsOfReader reads it as an OCI layout and as what `docker save` writes.
func TestArchiveIsReadByBothKindsOfReader(t *testing.T) {
	images := map[string]v1.Image{}
	for name, img := range map[string]Image{
		imageName:                         {Arch: "amd64", Files: []File{{Path: "/a", Data: []byte("a")}}},
		"registry.example/group/other:v2": {Arch: "arm64", Files: []File{{Path: "/b", Data: []byte("b")}}},
	} {
		built, err := Build(img, gzip.DefaultCompression)
		if err != nil {
			t.Fatal(err)
		}
		images[name] = built
	}
	archive := filepath.Join(t.TempDir(), "images.tar")
	if err := WriteFile(archive, images); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(untar(t, archive))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var want []v1.Descriptor
	for _, name := range slices.Sorted(maps.Keys(images)) {
		d, err := partial.Descriptor(images[name])
		if err != nil {
			t.Fatal(err)
		}
		config, err := images[name].ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		d.Platform = &v1.Platform{OS: "linux", Architecture: config.Architecture}
		d.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
		want = append(want, *d)
	}
	if diff := cmp.Diff(want, manifest.Manifests); diff != "" {
		t.Errorf("index (-want +got):\n%s", diff)
	}
	for name, built := range images {
		tag, err := reference.NewTag(name)
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := tarball.ImageFromPath(archive, &tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(loaded); err != nil {
			t.Errorf("%s read as docker archive: %v", name, err)
		}
		if got, want := configName(t, loaded), configName(t, built); got != want {
			t.Errorf("%s read as docker archive has config %s, want %s", name, got, want)
		}
	}
}

func TestPullSizeIsThatOfAllBlobs(t *testing.T) {
	built, err := Build(Image{Arch: "amd64", Files: []File{{Path: "/a", Data: []byte("a")}}}, gzip.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := WriteFile(archive, map[string]v1.Image{imageName: built}); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(untar(t, archive), "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	var want int64
	for _, blob := range blobs {
		info, err := os.Stat(blob)
		if err != nil {
			t.Fatal(err)
		}
		want += info.Size()
	}
	if got, err := PullSize(built); err != nil || got != want {
		t.Errorf("PullSize() = %d, %v, want %d", got, err, want)
	}
}

func configName(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	name, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func untar(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFailedWriteKeepsTheOldArchive(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(archive, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(archive, map[string]v1.Image{"bad": empty.Image}); err == nil {
		t.Error("WriteFile() of an image with a bad name: no error")
	}
	entries, err := os.ReadDir(filepath.Dir(archive))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("files after the failure: %v, want only the old archive", entries)
	}
	if data, err := os.ReadFile(archive); err != nil || string(data) != "old" {
		t.Errorf("archive = %q, %v; want the old one", data, err)
	}
}
