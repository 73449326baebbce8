package debs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// Root is the path of a folder with programs of Debian packages and what they need. Nothing is installed.
type Root string

// Unpack takes the files that match patterns, as of Tree.Pick, out of packages for this machine, by package,
// into a folder.
func Unpack(ctx context.Context, dir string, wanted map[string][]string) (Root, error) {
	r := Root(dir)
	for pkg, patterns := range wanted {
		tree, err := Fetch(ctx, runtime.GOARCH, pkg)
		if err != nil {
			return r, err
		}
		files, err := tree.Pick(patterns...)
		if err != nil {
			return r, err
		}
		for _, f := range files {
			if err := r.write(f); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

func (r Root) write(f oci.File) error {
	name := filepath.Join(string(r), f.Path)
	if f.Dir {
		return os.MkdirAll(name, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if f.Symlink == "" {
		return os.WriteFile(name, f.Data, os.FileMode(f.Mode)|0o444)
	}
	if err := os.Symlink(f.Symlink, name); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// Command returns a command that runs a program of the packages with their own libraries. Files that the
// program opens are the machine's.
func (r Root) Command(program string, args ...string) (*exec.Cmd, error) {
	loaders, err := filepath.Glob(filepath.Join(string(r), "usr/lib/*-linux-gnu*/ld-linux-*"))
	if err != nil || len(loaders) == 0 {
		return nil, fmt.Errorf("there is no loader in %s (%w)", string(r), err)
	}
	return exec.Command(loaders[0], append([]string{"--library-path", filepath.Dir(loaders[0]), filepath.Join(string(r), program)}, args...)...), nil
}
