package debs

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// Tree holds the files of some packages by path. Paths are those of a system whose /bin, /sbin and
// /lib* are links into /usr, also if a package has them otherwise.
type Tree struct {
	files    map[string]file
	packages []Package
}

// file is a file and the package that it is from.
type file struct {
	oci.File
	pkg string
}

// Pick returns the files that match the patterns of path.Match, and what they need: targets of
// links, the loader and libraries of programs, and the copyright files of their packages. A pattern
// without a match and a missing file are errors.
func (t *Tree) Pick(patterns ...string) ([]oci.File, error) {
	picked := map[string]oci.File{}
	for _, pattern := range patterns {
		if err := t.pick(picked, pattern); err != nil {
			return nil, err
		}
	}
	packages := map[string]bool{}
	for name := range picked {
		packages[t.files[name].pkg] = true
	}
	for pkg := range packages {
		dir := "/usr/share/doc/" + pkg
		if link := t.files[dir].Symlink; link != "" {
			dir = target(dir, link) // The package shares the documentation of another one.
		}
		if err := t.pick(picked, dir+"/copyright"); err != nil {
			return nil, err
		}
	}
	// Programs look for their loader in /lib or /lib64.
	for _, dir := range merged {
		for name := range picked {
			if strings.HasPrefix(name, "/usr/"+dir+"/") {
				picked["/"+dir] = oci.File{Path: "/" + dir, Symlink: "usr/" + dir}
			}
		}
	}
	return slices.SortedFunc(maps.Values(picked), func(a, b oci.File) int { return strings.Compare(a.Path, b.Path) }), nil
}

// pick adds the files that match the pattern, and what they need, to picked.
func (t *Tree) pick(picked map[string]oci.File, pattern string) error {
	found := false
	for name, f := range t.files {
		match, err := path.Match(pattern, name)
		if err != nil {
			return fmt.Errorf("pattern %q: %w", pattern, err)
		}
		if !match {
			continue
		}
		found = true
		if _, ok := picked[name]; ok {
			continue
		}
		picked[name] = f.File
		needs, err := f.needs()
		if err != nil {
			return fmt.Errorf("finding what %s needs: %w", name, err)
		}
		for _, need := range needs {
			if err := t.pick(picked, need); err != nil {
				return fmt.Errorf("%s needs %s: %w", name, path.Base(need), err)
			}
		}
	}
	if !found {
		var names []string
		for _, p := range t.packages {
			names = append(names, p.Name)
		}
		return fmt.Errorf("no file %s in the packages %s", pattern, strings.Join(names, ", "))
	}
	return nil
}

// needs returns patterns of the files that f does not work without: the target of a link, the
// loader and libraries of a program. Debian's loader finds libraries in the folder of the
// architecture.
func (f file) needs() ([]string, error) {
	if f.Symlink != "" {
		return []string{target(f.Path, f.Symlink)}, nil
	}
	if !bytes.HasPrefix(f.Data, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	program, err := elf.NewFile(bytes.NewReader(f.Data))
	if err != nil {
		return nil, err
	}
	needs, err := program.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for i, library := range needs {
		needs[i] = "/usr/lib/*-linux-gnu*/" + library
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			loader, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, err
			}
			needs = append(needs, usrMerge(string(bytes.TrimRight(loader, "\x00"))))
		}
	}
	return needs, nil
}

// unpack adds the files of a .deb file. Directories without files are left out.
func (t *Tree) unpack(ctx context.Context, archive string) error {
	pkg, err := describe(ctx, archive)
	if err != nil {
		return err
	}
	t.packages = append(t.packages, pkg)
	out, err := dpkgDeb(ctx, "--fsys-tarfile", archive)
	if err != nil {
		return err
	}
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		f := file{File: oci.File{Path: usrMerge(h.Name), Mode: h.Mode}, pkg: pkg.Name}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeSymlink:
			f.Symlink = h.Linkname
		case tar.TypeLink:
			f.Data = t.files[usrMerge(h.Linkname)].Data
		case tar.TypeReg:
			if f.Data, err = io.ReadAll(r); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: type %q is not supported", h.Name, h.Typeflag)
		}
		t.files[f.Path] = f
	}
}

// merged are the directories that have moved into /usr.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// usrMerge returns the path, absolute and clean, with its place in /usr.
func usrMerge(name string) string {
	name = path.Clean("/" + name)
	first, _, _ := strings.Cut(name[1:], "/")
	if slices.Contains(merged, first) {
		return "/usr" + name
	}
	return name
}

// target returns the absolute path that the link at name points to.
func target(name, link string) string {
	if !path.IsAbs(link) {
		link = path.Join(path.Dir(name), link)
	}
	return usrMerge(link)
}
