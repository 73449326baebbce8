package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	reference "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"pgregory.net/rapid"
)

const name = "registry.example/group/thing:v1"

func TestLayerHoldsWhatWasListed(t *testing.T) {
	source := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(source, []byte("from disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := Image{Name: name, Files: []File{
		{Path: "/usr/bin/program", Mode: 0o755, Source: source},
		{Path: "etc/passwd", Data: []byte("root")},
		{Path: "/bin", Symlink: "usr/bin"},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/usr/bin/su", Mode: fs.ModeSetuid | 0o755},
	}}
	want := []string{
		"bin -> usr/bin 0777 \"\"",
		"etc/ 0755 \"\"",
		"etc/passwd 0644 \"root\"",
		"tmp/ 01777 \"\"",
		"usr/ 0755 \"\"",
		"usr/bin/ 0755 \"\"",
		"usr/bin/program 0755 \"from disk\"",
		"usr/bin/su 04755 \"\"",
	}
	if diff := cmp.Diff(want, layerContent(t, img)); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func layerContent(t *testing.T, img Image) []string {
	t.Helper()
	built, err := Build(img)
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
	if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(epoch) {
		t.Errorf("%s: owner %d:%d, time %s; want root and the epoch", h.Name, h.Uid, h.Gid, h.ModTime)
	}
	line := h.Name
	if h.Typeflag == tar.TypeSymlink {
		line += " -> " + h.Linkname
	}
	return line + " 0" + octal(h.Mode) + ` "` + string(data) + `"`
}

func octal(mode int64) string {
	var digits string
	for ; mode > 0; mode /= 8 {
		digits = string(rune('0'+mode%8)) + digits
	}
	return digits
}

func TestConfigSaysHowToRun(t *testing.T) {
	built, err := Build(Image{
		Name: name, Arch: "arm64", User: "65532:65532", WorkingDir: "/work",
		Entrypoint: []string{"/program"}, Cmd: []string{"serve"}, Env: []string{"A=b"},
		Labels: map[string]string{"org.opencontainers.image.title": "thing"},
	})
	if err != nil {
		t.Fatal(err)
	}
	config, err := built.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	got := []any{config.Architecture, config.OS, config.Created.Time, config.Config.User, config.Config.WorkingDir,
		config.Config.Entrypoint, config.Config.Cmd, config.Config.Env, config.Config.Labels}
	want := []any{"arm64", "linux", epoch, "65532:65532", "/work",
		[]string{"/program"}, []string{"serve"}, []string{defaultPath, "A=b"}, map[string]string{"org.opencontainers.image.title": "thing"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		img  Image
		want string
	}{
		{"a file listed twice", Image{Name: name, Files: []File{{Path: "/a"}, {Path: "a"}}}, "a is listed twice"},
		{"a file below a file", Image{Name: name, Files: []File{{Path: "/a"}, {Path: "/a/b/c"}}}, "a/b/c lies below a, which is not a directory"},
		{"a file below a link", Image{Name: name, Files: []File{{Path: "/lib", Symlink: "usr/lib"}, {Path: "/lib/x"}}}, "lib/x lies below lib"},
		{"a path out of the image", Image{Name: name, Files: []File{{Path: "../a"}}}, `file path "../a"`},
		{"the root itself", Image{Name: name, Files: []File{{Path: "/"}}}, `file path "/"`},
		{"a source that is not there", Image{Name: name, Files: []File{{Path: "/a", Source: "/nowhere"}}}, "adding a: open /nowhere"},
		{"a link with content", Image{Name: name, Files: []File{{Path: "/a", Symlink: "b", Data: []byte("x")}}}, "only one of"},
		{"a directory with content", Image{Name: name, Files: []File{{Path: "/a", Mode: fs.ModeDir, Data: []byte("x")}}}, "only one of"},
		{"a name without registry", Image{Name: "thing:v1"}, `image name "thing:v1"`},
		{"a name without registry but with a group", Image{Name: "group/thing:v1"}, `image name "group/thing:v1"`},
		{"a name without tag", Image{Name: "registry.example/thing"}, "name:tag"},
		{"a gzip level there is not", Image{Name: name, Compression: 77}, "gzip level 77"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Build(tt.img)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Build() error = %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestSameFilesGiveSameBytesInAnyOrder(t *testing.T) {
	paths := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}(/x[a-z]{1,3}){0,2}`), 0, 8, rapid.ID[string])
	rapid.Check(t, func(t *rapid.T) {
		var files []File
		for _, p := range paths.Draw(t, "paths") {
			files = append(files, File{Path: p, Mode: fs.ModeDir})
			files = append(files, File{Path: p + "/file", Data: []byte(p)})
		}
		shuffled := rapid.Permutation(files).Draw(t, "shuffled")
		if !bytes.Equal(archiveBytes(t, files), archiveBytes(t, shuffled)) {
			t.Errorf("the order of the files changed the archive")
		}
	})
}

func archiveBytes(t *rapid.T, files []File) []byte {
	var out bytes.Buffer
	if _, err := Write(&out, Image{Name: name, Files: files, Compression: gzip.BestSpeed, Labels: map[string]string{"a": "1", "b": "2", "c": "3"}}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestArchiveIsReadByBothKindsOfReader reads it as an OCI layout and as what
// `docker save` writes.
func TestArchiveIsReadByBothKindsOfReader(t *testing.T) {
	other := "registry.example/group/other:v2"
	archive := filepath.Join(t.TempDir(), "images.tar")
	images := []Image{
		{Name: name, Files: []File{{Path: "/a", Data: []byte("a")}}},
		{Name: other, Files: []File{{Path: "/b", Data: []byte("b")}}, Compression: gzip.BestSpeed},
	}
	written, err := WriteFile(archive, images...)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
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
	for _, m := range manifest.Manifests {
		names[m.Annotations["io.containerd.image.name"]] = m.Annotations["org.opencontainers.image.ref.name"]
	}
	if diff := cmp.Diff(map[string]string{name: name, other: other}, names); diff != "" {
		t.Errorf("names in the index (-want +got):\n%s", diff)
	}
	for _, img := range images {
		tag, err := reference.NewTag(img.Name)
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := tarball.ImageFromPath(archive, &tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(loaded); err != nil {
			t.Errorf("%s read as docker archive: %v", img.Name, err)
		}
	}
	for i, m := range manifest.Manifests {
		inner, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		want := Written{Name: images[i].Name, Digest: m.Digest.String(), Size: m.Size + contentSize(t, inner)}
		if diff := cmp.Diff(want, written[i]); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
	}
}

func contentSize(t *testing.T, img v1.Image) int64 {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	size := m.Config.Size
	for _, l := range m.Layers {
		size += l.Size
	}
	return size
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

func TestFailedWriteLeavesTheOldArchive(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(archive, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteFile(archive, Image{Name: "bad"}); err == nil {
		t.Error("WriteFile() of an image with a bad name: no error")
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(archive), "*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{archive}, left); diff != "" {
		t.Errorf("files left (-want +got):\n%s", diff)
	}
	if data, err := os.ReadFile(archive); err != nil || string(data) != "old" {
		t.Errorf("archive = %q, %v; want the old one", data, err)
	}
}
