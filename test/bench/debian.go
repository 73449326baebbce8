package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// debian is a folder with programs of Debian packages and what they need. Nothing is installed.
type debian struct{ root string }

// unpack takes files out of packages, by package, into a new folder in dir.
func unpack(ctx context.Context, dir string, wanted map[string][]string) (debian, error) {
	d := debian{filepath.Join(dir, "root")}
	for pkg, patterns := range wanted {
		tree, err := debs.Fetch(ctx, runtime.GOARCH, pkg)
		if err != nil {
			return d, err
		}
		files, err := tree.Pick(patterns...)
		if err != nil {
			return d, err
		}
		for _, f := range files {
			if err := d.write(f); err != nil {
				return d, err
			}
		}
	}
	return d, nil
}

func (d debian) write(f oci.File) error {
	name := filepath.Join(d.root, f.Path)
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

// command returns a command that runs a program of the packages with their own libraries.
func (d debian) command(program string, args ...string) (*exec.Cmd, error) {
	loaders, err := filepath.Glob(filepath.Join(d.root, "usr/lib/*-linux-gnu*/ld-linux-*"))
	if err != nil || len(loaders) == 0 {
		return nil, fmt.Errorf("there is no loader in %s (%w)", d.root, err)
	}
	return exec.Command(loaders[0], append([]string{"--library-path", filepath.Dir(loaders[0]), filepath.Join(d.root, program)}, args...)...), nil
}

// version returns what a program prints about its version, from a word on.
func (d debian) version(program, word string) (string, error) {
	cmd, err := d.command(program, "-v")
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -v: %w: %s", program, err, out)
	}
	_, rest, _ := strings.Cut(string(out), word)
	version, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return strings.TrimSpace(version), nil
}
