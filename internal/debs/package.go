package debs

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// Package identifies a package.
type Package struct {
	// Arch is the architecture, or all.
	Name, Version, Arch string
	// Source is the name of the package whose sources it is built from, by which Debian announces
	// vulnerabilities.
	Source string
	// Distribution and Release are the ID and the VERSION_ID in /etc/os-release of the machine, whose
	// apt sources the package is from.
	Distribution, Release string
}

// Packages returns the packages that the files are from, sorted by name. Files that are from no
// package, such as links to merged directories, are ignored.
func (t *Tree) Packages(files []oci.File) []Package {
	used := map[string]bool{}
	for _, f := range files {
		used[t.files[f.Path].pkg] = true
	}
	var packages []Package
	for _, p := range t.packages {
		if used[p.Name] {
			packages = append(packages, p)
		}
	}
	slices.SortFunc(packages, func(a, b Package) int { return cmp.Compare(a.Name, b.Name) })
	return packages
}

// describe reads which package a .deb file has.
func describe(ctx context.Context, archive string) (Package, error) {
	const format = "${Package}\n${Version}\n${Architecture}\n${source:Package}\n"
	out, err := dpkgDeb(ctx, "--show", "--showformat="+format, archive)
	if err != nil {
		return Package{}, err
	}
	fields := strings.Fields(string(out))
	if len(fields) != 4 {
		return Package{}, fmt.Errorf("dpkg-deb prints %q, want name, version, architecture and source", out)
	}
	p := Package{Name: fields[0], Version: fields[1], Arch: fields[2], Source: fields[3]}
	p.Distribution, p.Release, err = osRelease("/etc/os-release")
	return p, err
}

// osRelease returns the ID and the VERSION_ID of an os-release file. The latter is empty for a
// distribution without releases, such as Debian's sid.
func osRelease(path string) (id, version string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		switch value = strings.Trim(value, `"'`); name {
		case "ID":
			id = value
		case "VERSION_ID":
			version = value
		}
	}
	if id == "" && lines.Err() == nil {
		return "", "", fmt.Errorf("%s has no ID", path)
	}
	return id, version, lines.Err()
}

// dpkgDeb returns what dpkg-deb prints.
func dpkgDeb(ctx context.Context, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "dpkg-deb", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("dpkg-deb: %w: %s", err, exit.Stderr)
	}
	return out, err
}
