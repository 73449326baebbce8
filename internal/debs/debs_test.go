package debs

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// repository is a package repository in a folder, which apt-get is configured to use.
type repository struct{ dir string }

func newRepository(t *testing.T) repository {
	t.Helper()
	r := repository{dir: t.TempDir()}
	// With copy: apt copies the packages into its cache, as with http:.
	write(t, filepath.Join(r.dir, "sources.list"), "deb [trusted=yes] copy:"+r.dir+" ./\n")
	write(t, filepath.Join(r.dir, "apt.conf"), fmt.Sprintf("Dir::Etc::sourcelist %q;\nDir::Etc::sourceparts \"/dev/null\";\n", filepath.Join(r.dir, "sources.list")))
	t.Setenv("APT_CONFIG", filepath.Join(r.dir, "apt.conf"))
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
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

func fetch(t *testing.T, pkg string) *Tree {
	t.Helper()
	tree, err := Fetch(context.Background(), "amd64", pkg)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// addTool adds the package tool, with a program linked as dpkg-deb is, and the
// package libs with what it is linked against, except for the library leaveOut.
func (r repository) addTool(t *testing.T, leaveOut string) {
	t.Helper()
	dpkgDeb, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Fatal(err)
	}
	program := read(t, dpkgDeb)
	linked, err := file{File: oci.File{Data: []byte(program)}}.needs()
	if err != nil {
		t.Fatal(err)
	}
	libs := map[string]string{"/usr/share/doc/libs": "-> tool"}
	for _, need := range linked {
		dir, lib := path.Split(need)
		switch {
		case lib == leaveOut:
		case dir == "/usr/lib64/": // as packages of Debian 12 have it
			libs["/lib64/"+lib] = "-> /lib/x86_64-linux-gnu/loader"
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

func pick(t *testing.T, tree *Tree, patterns ...string) []oci.File {
	t.Helper()
	files, err := tree.Pick(patterns...)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPickAddsWhatAProgramNeeds(t *testing.T) {
	newRepository(t).addTool(t, "")
	got := strings.Join(paths(pick(t, fetch(t, "tool"), "/usr/bin/tool-*")), "\n") + "\n"
	for _, want := range []string{
		"/bin -> usr/bin\n", "/lib -> usr/lib\n", "/lib64 -> usr/lib64\n",
		"/usr/bin/tool\n", "/usr/bin/tool-alias -> tool\n",
		"/usr/lib64/ld-linux-x86-64.so.2 -> /lib/x86_64-linux-gnu/loader\n", "/usr/lib/x86_64-linux-gnu/loader\n",
		"/usr/lib/x86_64-linux-gnu/libc.so.6 -> libc.so.6.1.2.3\n", "/usr/lib/x86_64-linux-gnu/libc.so.6.1.2.3\n",
		"/usr/share/doc/tool/copyright\n",
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

func TestPickedFilesMakeAnImage(t *testing.T) {
	newRepository(t).addTool(t, "")
	files := pick(t, fetch(t, "tool"), "/usr/bin/*", "/usr/lib/*/*", "/usr/share/doc/*/*")
	if _, err := oci.Build(oci.Image{Files: files}, gzip.DefaultCompression); err != nil {
		t.Error(err)
	}
}

func TestPickRefuses(t *testing.T) {
	newRepository(t).addTool(t, "libc.so.6")
	tree := fetch(t, "tool")
	for pattern, want := range map[string]string{
		"/usr/bin/nothing": "no file /usr/bin/nothing in the packages libs, tool",
		"/usr/bin/[":       `pattern "/usr/bin/[": syntax error`,
		"/usr/bin/tool":    "/usr/bin/tool needs libc.so.6: no file /usr/lib/*-linux-gnu*/libc.so.6 in the packages libs, tool",
	} {
		if _, err := tree.Pick(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Pick(%s) error = %v, want one with %q", pattern, err, want)
		}
	}
}

func TestPickRefusesAPackageWithoutCopyrightFile(t *testing.T) {
	newRepository(t).add(t, "thing", "1", "", map[string]string{"/etc/thing": "one"})
	_, err := fetch(t, "thing").Pick("/etc/thing")
	if want := "no file /usr/share/doc/thing/copyright in the packages thing"; err == nil || err.Error() != want {
		t.Errorf("Pick() error = %v, want %q", err, want)
	}
}

func (r repository) addThing(t *testing.T, version string) {
	t.Helper()
	r.add(t, "thing", version, "", map[string]string{
		"/etc/thing":                     "version " + version,
		"/usr/share/doc/thing/copyright": "GPL",
	})
}

func TestFetchNeedsNoNetworkTheSecondTime(t *testing.T) {
	r := newRepository(t)
	r.addThing(t, "1")
	want := pick(t, fetch(t, "thing"), "/etc/*")
	r.clear(t)
	if diff := cmp.Diff(want, pick(t, fetch(t, "thing"), "/etc/*")); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestFetchUpdatesPackageListsWhenTheKnownVersionIsGone(t *testing.T) {
	r := newRepository(t)
	r.add(t, "known", "1", "", nil)
	r.addThing(t, "1")
	fetch(t, "known")
	r.clear(t)
	r.addThing(t, "2")
	if got := string(pick(t, fetch(t, "thing"), "/etc/thing")[0].Data); got != "version 2" {
		t.Errorf("fetched %q, want version 2", got)
	}
}

func TestFetchOfAnUnknownPackageNamesIt(t *testing.T) {
	newRepository(t).add(t, "thing", "1", "", nil)
	_, err := Fetch(context.Background(), "amd64", "thong")
	if err == nil || !strings.Contains(err.Error(), "Unable to locate package thong") {
		t.Errorf("Fetch() error = %v, want one that names the package", err)
	}
}

func TestFetchWithoutAptNamesIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err := Fetch(context.Background(), "amd64", "thing")
	if err == nil || !strings.Contains(err.Error(), `"apt-get": executable file not found`) {
		t.Errorf("Fetch() error = %v, want one that names apt-get", err)
	}
}
