package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debian is a folder with the files of unpacked Debian packages.
type debian struct{ root string }

// unpack downloads packages, and what they need and the machine lacks, and unpacks them into a new
// folder in dir. Nothing is installed, so no service is started either.
func unpack(ctx context.Context, dir string, packages ...string) (debian, error) {
	d := debian{filepath.Join(dir, "root")}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return d, errors.New("needs Debian's apt-get, to download " + strings.Join(packages, " "))
	}
	archives := filepath.Join(dir, "archives")
	if err := os.MkdirAll(filepath.Join(archives, "partial"), 0o755); err != nil {
		return d, err
	}
	download := append([]string{"apt-get", "-q", "install", "-y", "--no-install-recommends", "--reinstall", "--download-only", "-o", "Dir::Cache::archives=" + archives}, packages...)
	if err := execute(ctx, download...); err != nil {
		// The machine's lists of packages may be missing or old.
		if err := execute(ctx, "apt-get", "-q", "update"); err != nil {
			return d, err
		}
		if err := execute(ctx, download...); err != nil {
			return d, err
		}
	}
	files, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return d, err
	}
	for _, file := range files {
		if err := execute(ctx, "dpkg-deb", "--extract", file, d.root); err != nil {
			return d, err
		}
	}
	return d, nil
}

// command returns a command that runs a program of the packages with their libraries.
func (d debian) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(d.root, program), args...)
	libraries, _ := filepath.Glob(filepath.Join(d.root, "usr/lib/*-linux-gnu*"))
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	return cmd
}

// version returns what a program prints about its version, from a word on.
func (d debian) version(program, word string) (string, error) {
	out, err := d.command(program, "-v").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -v: %w: %s", program, err, out)
	}
	_, rest, _ := strings.Cut(string(out), word)
	version, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return strings.TrimSpace(version), nil
}

// execute runs a program to its end.
func execute(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
