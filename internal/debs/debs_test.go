package debs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// repository is a package repository in a folder, to which apt-get is pointed.
type repository struct{ dir string }

func newRepository(t *testing.T) repository {
	t.Helper()
	r := repository{dir: t.TempDir()}
	// With copy: apt copies the packages into its cache, as with http:.
	write(t, filepath.Join(r.dir, "sources.list"), "deb [trusted=yes] copy:"+r.dir+" ./\n")
	write(t, filepath.Join(r.dir, "apt.conf"), fmt.Sprintf("Dir::Etc::sourcelist %q;\nDir::Etc::sourceparts \"/dev/null\";\n", filepath.Join(r.dir, "sources.list")))
	t.Setenv("APT_CONFIG", filepath.Join(r.dir, "apt.conf"))
	return r
}

// add builds a package; files maps paths to contents, or to "-> target".
func (r repository) add(t *testing.T, name, version, depends string, files map[string]string) {
	t.Helper()
	root := t.TempDir()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody <nobody@example.com>\nDescription: test\n", name, version)
	if depends != "" {
		control += "Depends: " + depends + "\n"
	}
	write(t, filepath.Join(root, "DEBIAN", "control"), control)
	for path, content := range files {
		if link, ok := strings.CutPrefix(content, "-> "); ok {
			mkdir(t, filepath.Dir(filepath.Join(root, path)))
			if err := os.Symlink(link, filepath.Join(root, path)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		write(t, filepath.Join(root, path), content)
	}
	deb := fmt.Sprintf("%s_%s_amd64.deb", name, version)
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", root, filepath.Join(r.dir, deb)).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	data := read(t, filepath.Join(r.dir, deb))
	stanza := fmt.Sprintf("%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", control, deb, len(data), sha256.Sum256([]byte(data)))
	index := filepath.Join(r.dir, "Packages")
	old, _ := os.ReadFile(index)
	write(t, index, string(old)+stanza)
}

func (r repository) clear(t *testing.T) {
	t.Helper()
	old, err := filepath.Glob(filepath.Join(r.dir, "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(old, filepath.Join(r.dir, "Packages")) {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
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

func fetch(t *testing.T, s Source, names ...string) *Tree {
	t.Helper()
	tree, err := s.Fetch(context.Background(), names...)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// addTool adds the package tool, with a program linked as dpkg-deb is, and the
// package libs with what it is linked against, less what is left out.
func (r repository) addTool(t *testing.T, leaveOut string) {
	t.Helper()
	dpkgDeb, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Fatal(err)
	}
	program := read(t, dpkgDeb)
	linked, err := linkedAgainst([]byte(program))
	if err != nil {
		t.Fatal(err)
	}
	libs := map[string]string{"/usr/share/doc/libs": "-> tool"}
	for _, lib := range linked {
		switch {
		case strings.Contains(lib, leaveOut) && leaveOut != "":
		case strings.HasPrefix(lib, "/"):
			libs[lib] = "-> /lib/x86_64-linux-gnu/loader"
			libs["/lib/x86_64-linux-gnu/loader"] = "the loader"
		default:
			libs["/usr/lib/x86_64-linux-gnu/"+lib] = "-> " + lib + ".1.2.3"
			libs["/usr/lib/x86_64-linux-gnu/"+lib+".1.2.3"] = "library " + lib
		}
	}
	r.add(t, "libs", "1", "", libs)
	r.add(t, "tool", "1:2.3-4", "libs", map[string]string{
		"/bin/tool":                     program,
		"/bin/tool-alias":               "-> tool",
		"/bin/unneeded":                 "text",
		"/usr/share/doc/tool/copyright": "GPL",
		"/usr/share/doc/tool/other":     "text",
	})
}

func paths(files []oci.File) []string {
	var out []string
	for _, f := range files {
		line := f.Path
		if f.Symlink != "" {
			line += " -> " + f.Symlink
		}
		out = append(out, line)
	}
	return out
}

func TestPickBringsWhatAProgramNeeds(t *testing.T) {
	newRepository(t).addTool(t, "")
	tree := fetch(t, Source{Dir: t.TempDir()}, "tool")
	if diff := cmp.Diff([]string{"libs 1", "tool 1:2.3-4"}, tree.Versions()); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	files, err := tree.Pick("/usr/bin/tool-*")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(paths(files), "\n") + "\n"
	for _, want := range []string{
		"/bin -> usr/bin\n", "/lib -> usr/lib\n", "/lib64 -> usr/lib64\n",
		"/usr/bin/tool\n", "/usr/bin/tool-alias -> tool\n",
		"/usr/lib/x86_64-linux-gnu/libc.so.6 -> libc.so.6.1.2.3\n", "/usr/lib/x86_64-linux-gnu/libc.so.6.1.2.3\n",
		"/usr/lib/x86_64-linux-gnu/loader\n", "/usr/share/doc/tool/copyright\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("picked files lack %q, are:\n%s", want, got)
		}
	}
	for _, unwanted := range []string{"unneeded", "doc/tool/other"} {
		if strings.Contains(got, unwanted) {
			t.Errorf("picked files hold %s", unwanted)
		}
	}
}

func TestAllFilesMakeAnImage(t *testing.T) {
	newRepository(t).addTool(t, "")
	files := fetch(t, Source{Dir: t.TempDir()}, "tool").All()
	if _, err := oci.Build(oci.Image{Name: "registry.example/tool:v1", Files: files}); err != nil {
		t.Error(err)
	}
}

func TestPickRefuses(t *testing.T) {
	newRepository(t).addTool(t, "libc.so")
	tree := fetch(t, Source{Dir: t.TempDir()}, "tool")
	for pattern, want := range map[string]string{
		"/usr/bin/nothing": `pattern "/usr/bin/nothing": no such file in the packages libs 1, tool 1:2.3-4`,
		"/usr/bin/[":       `pattern "/usr/bin/[": syntax error`,
		"/usr/bin/tool":    "/usr/bin/tool needs libc.so.6, which is in none of the packages",
	} {
		if _, err := tree.Pick(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Pick(%s) error = %v, want one with %q", pattern, err, want)
		}
	}
}

func TestFetchNeedsNoNetworkTheSecondTime(t *testing.T) {
	r, cache := newRepository(t), Source{Dir: t.TempDir()}
	r.add(t, "thing", "1", "", map[string]string{"/etc/thing": "one"})
	fetch(t, cache, "thing")
	r.clear(t)
	if diff := cmp.Diff([]string{"/etc/thing"}, paths(fetch(t, cache, "thing").All())); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestFetchLooksAgainWhenTheKnownVersionIsGone(t *testing.T) {
	r, cache := newRepository(t), Source{Dir: t.TempDir()}
	r.add(t, "known", "1", "", nil)
	r.add(t, "thing", "1", "", nil)
	fetch(t, cache, "known")
	r.clear(t)
	r.add(t, "thing", "2", "", nil)
	if diff := cmp.Diff([]string{"thing 2"}, fetch(t, cache, "thing").Versions()); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
}

func TestFetchOfAnUnknownPackageNamesIt(t *testing.T) {
	newRepository(t).add(t, "thing", "1", "", nil)
	_, err := Source{Dir: t.TempDir()}.Fetch(context.Background(), "thong")
	if err == nil || !strings.Contains(err.Error(), "Unable to locate package thong") {
		t.Errorf("Fetch() error = %v, want one that names the package", err)
	}
}

func TestFetchWithoutAptSaysSo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Source{Dir: t.TempDir()}.Fetch(context.Background(), "thing")
	if err == nil || !strings.Contains(err.Error(), `"apt-get": executable file not found`) {
		t.Errorf("Fetch() error = %v, want one that names apt-get", err)
	}
}
