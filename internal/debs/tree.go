package debs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// Tree holds the files of some packages. Paths are those of a system whose
// /bin, /sbin and /lib* are links into /usr, whatever the packages say.
// Directories without files are left out.
type Tree struct {
	files    map[string]packaged
	versions []string
}

// packaged is a file and the package it came from.
type packaged struct {
	oci.File
	pkg string
}

// Versions returns the packages in the tree, each as "name version", sorted.
func (t *Tree) Versions() []string { return t.versions }

// All returns every file of the packages.
func (t *Tree) All() []oci.File { return t.collect(slices.Collect(maps.Keys(t.files))) }

// Pick returns the files that the patterns of package path match, and what
// those need to run and to be passed on: targets of links, the loader and
// libraries of programs, and their packages' copyright files. A pattern that
// matches nothing, or a library that is in none of the packages, is an error.
func (t *Tree) Pick(patterns ...string) ([]oci.File, error) {
	chosen := map[string]bool{}
	for _, pattern := range patterns {
		matches, err := t.match(pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range matches {
			if err := t.addWithNeeds(chosen, name); err != nil {
				return nil, err
			}
		}
	}
	if err := t.addCopyright(chosen); err != nil {
		return nil, err
	}
	return t.collect(slices.Collect(maps.Keys(chosen))), nil
}

func (t *Tree) match(pattern string) ([]string, error) {
	var matches []string
	for name := range t.files {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		}
		if ok {
			matches = append(matches, name)
		}
	}
	if len(matches) == 0 {
		return nil, fmt.Errorf("pattern %q: no such file in the packages %s", pattern, strings.Join(t.versions, ", "))
	}
	return matches, nil
}

func (t *Tree) addWithNeeds(chosen map[string]bool, name string) error {
	if chosen[name] {
		return nil
	}
	chosen[name] = true
	needs, err := t.needs(name)
	if err != nil {
		return err
	}
	for _, need := range needs {
		if err := t.addWithNeeds(chosen, need); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) addCopyright(chosen map[string]bool) error {
	packages := map[string]bool{}
	for name := range chosen {
		packages[t.files[name].pkg] = true
	}
	for pkg := range packages {
		name := t.resolveDir(path.Join("/usr/share/doc", pkg)) + "/copyright"
		if _, ok := t.files[name]; !ok {
			return fmt.Errorf("package %s: its copyright file %s is missing", pkg, name)
		}
		if err := t.addWithNeeds(chosen, name); err != nil {
			return err
		}
	}
	return nil
}

// resolveDir follows a link in the place of a directory: some packages share
// the documentation of another one.
func (t *Tree) resolveDir(name string) string {
	if f, ok := t.files[name]; ok && f.Symlink != "" {
		return target(name, f.Symlink)
	}
	return name
}

// merged are the directories that have moved into /usr.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// usrMerge gives the place in /usr of a path, absolute and clean.
func usrMerge(name string) string {
	name = path.Clean("/" + name)
	first, _, _ := strings.Cut(name[1:], "/")
	if slices.Contains(merged, first) {
		return "/usr" + name
	}
	return name
}

// target gives the absolute path to which the link at name points.
func target(name, link string) string {
	if !path.IsAbs(link) {
		link = path.Join(path.Dir(name), link)
	}
	return usrMerge(link)
}

// collect returns the files sorted, with the links from / into /usr under which
// programs look for their loader and shell.
func (t *Tree) collect(names []string) []oci.File {
	slices.Sort(names)
	var files []oci.File
	for _, dir := range merged {
		prefix := "/usr/" + dir + "/"
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) }) {
			files = append(files, oci.File{Path: "/" + dir, Symlink: "usr/" + dir})
		}
	}
	for _, name := range names {
		files = append(files, t.files[name].File)
	}
	return files
}

func unpack(ctx context.Context, archives []string) (*Tree, error) {
	t := &Tree{files: map[string]packaged{}}
	for _, archive := range archives {
		name, version := parseFileName(archive)
		if err := t.unpackOne(ctx, archive, name); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", archive, err)
		}
		t.versions = append(t.versions, name+" "+version)
	}
	slices.Sort(t.versions)
	return t, nil
}

// parseFileName reads name_version_arch.deb, where apt writes the colon of a
// version as %3a.
func parseFileName(archive string) (name, version string) {
	parts := strings.Split(filepath.Base(archive), "_")
	name = parts[0]
	if len(parts) > 1 {
		version = parts[1]
	}
	if plain, err := url.PathUnescape(version); err == nil {
		version = plain
	}
	return name, version
}

func (t *Tree) unpackOne(ctx context.Context, archive, pkg string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", archive)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	readErr := t.readTar(tar.NewReader(out), pkg)
	_, drainErr := io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb: %w: %s", err, problems.String())
	}
	return errors.Join(readErr, drainErr)
}

func (t *Tree) readTar(archive *tar.Reader, pkg string) error {
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		f := packaged{File: oci.File{Path: usrMerge(h.Name), Mode: h.FileInfo().Mode()}, pkg: pkg}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeSymlink:
			f.Symlink, f.Mode = h.Linkname, 0
		case tar.TypeLink:
			f.Data = t.files[usrMerge(h.Linkname)].Data
		case tar.TypeReg:
			if f.Data, err = io.ReadAll(archive); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: files of type %q are not supported", h.Name, h.Typeflag)
		}
		t.files[f.Path] = f
	}
}
