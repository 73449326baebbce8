package debs

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

func TestPackagesAreThoseOfTheFiles(t *testing.T) {
	r := newRepository(t)
	r.addTool(t, "")
	r.add(t, "unused", "1", "", map[string]string{"/etc/unused": ""})
	tree := fetch(t, "tool")
	id, release, err := osRelease("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	tool := Package{Name: "tool", Version: "1:2.3-4", Arch: "amd64", Source: "tool", Distribution: id, Release: release}
	libs := Package{Name: "libs", Version: "1", Arch: "amd64", Source: "libs", Distribution: id, Release: release}
	for _, tt := range []struct {
		name  string
		files []oci.File
		want  []Package
	}{
		{"a program and its libraries", pick(t, tree, "/usr/bin/tool"), []Package{libs, tool}},
		{"a text", pick(t, tree, "/usr/bin/unneeded"), []Package{tool}},
		{"a file of no package", []oci.File{{Path: "/run"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tree.Packages(tt.files)); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOSRelease(t *testing.T) {
	for content, want := range map[string][2]string{
		"NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n": {"debian", "12"},
		"ID='ubuntu'\nVERSION_ID='24.04'\n":                         {"ubuntu", "24.04"},
		"ID=debian\n":                                               {"debian", ""},
	} {
		path := filepath.Join(t.TempDir(), "os-release")
		write(t, path, content)
		id, version, err := osRelease(path)
		if got := [2]string{id, version}; err != nil || got != want {
			t.Errorf("osRelease(%q) = %q, %v; want %q", content, got, err, want)
		}
	}
}
