// Package debs takes files out of Debian packages, for images that need a
// program somebody else wrote: the packages with all they depend on are
// downloaded once by apt-get, into a cache of their own, and unpacked in
// memory.
//
// Nothing is installed, root is not needed, and the machine's own package
// lists stay as they are: apt-get gets its state in the cache folder and is
// told that no package is installed, so that every dependency comes along. The
// machine's apt sources are used.
package debs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// Source is a cache of packages of one architecture.
type Source struct {
	// Dir is the cache folder, made when missing. Empty means
	// hostport-ccm/debs below the user's cache folder. With the packages in it
	// no network is needed; removing it gets the newest ones.
	Dir string
	// Arch is the architecture as Debian (and Go) names it; empty means amd64.
	Arch string
}

// Fetch downloads what is missing of the packages and of those they depend on,
// and returns their files.
func (s Source) Fetch(ctx context.Context, names ...string) (*Tree, error) {
	s, err := s.prepare()
	if err != nil {
		return nil, fmt.Errorf("cache of Debian packages: %w", err)
	}
	unlock, err := lock(filepath.Join(s.Dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	archives, err := s.archives(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("getting the Debian packages %s: %w", strings.Join(names, ", "), err)
	}
	return unpack(ctx, archives)
}

// prepare fills in the defaults and makes the folders that apt-get expects.
func (s Source) prepare() (Source, error) {
	if s.Arch == "" {
		s.Arch = "amd64"
	}
	if s.Dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return s, err
		}
		s.Dir = filepath.Join(cache, "hostport-ccm", "debs")
	}
	s.Dir = filepath.Join(s.Dir, s.Arch)
	for _, dir := range []string{"lists/partial", "archives/partial", "none/partial"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, dir), 0o755); err != nil {
			return s, err
		}
	}
	return s, os.WriteFile(filepath.Join(s.Dir, "status"), nil, 0o644)
}

// lock waits until no other process works in the cache.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the cache of Debian packages: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// archives returns the paths of the .deb files. It asks the network only when
// something is missing, and for new package lists only when the old ones fail:
// there are none yet, or they name a file that a newer one has replaced.
func (s Source) archives(ctx context.Context, names []string) ([]string, error) {
	paths, err := s.complete(ctx, names)
	if err == nil || ctx.Err() != nil || errors.Is(err, exec.ErrNotFound) {
		return paths, err
	}
	if _, err := s.apt(ctx, "update"); err != nil {
		return nil, err
	}
	return s.complete(ctx, names)
}

func (s Source) complete(ctx context.Context, names []string) ([]string, error) {
	paths, err := s.wanted(ctx, names)
	if err != nil || allExist(paths) {
		return paths, err
	}
	_, err = s.apt(ctx, append([]string{"install", "--download-only"}, names...)...)
	return paths, err
}

func allExist(paths []string) bool {
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			return false
		}
	}
	return true
}

// uriLine is a line of apt-get --print-uris: quoted URI, file name, size, hash.
var uriLine = regexp.MustCompile(`(?m)^'[^']*' (\S+\.deb) \d+`)

// wanted asks apt-get what an installation would download. It leaves out what
// lies in the archives folder, hence the empty one.
func (s Source) wanted(ctx context.Context, names []string) ([]string, error) {
	none := "Dir::Cache::archives=" + filepath.Join(s.Dir, "none")
	out, err := s.apt(ctx, append([]string{"install", "--print-uris", "-o", none}, names...)...)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, m := range uriLine.FindAllStringSubmatch(out, -1) {
		paths = append(paths, filepath.Join(s.Dir, "archives", m[1]))
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("apt-get lists nothing to download, but said:\n%s", out)
	}
	return paths, nil
}

func (s Source) apt(ctx context.Context, args ...string) (string, error) {
	options := []string{
		"-q", "-y", "--no-install-recommends",
		"-o", "Dir::State::lists=" + filepath.Join(s.Dir, "lists"),
		"-o", "Dir::State::status=" + filepath.Join(s.Dir, "status"),
		"-o", "Dir::Cache=" + s.Dir,
		"-o", "Dir::Cache::archives=" + filepath.Join(s.Dir, "archives"),
		"-o", "APT::Architecture=" + s.Arch,
		"-o", "APT::Architectures=" + s.Arch,
		// Another process at work here is kept out by our own lock, and waits.
		"-o", "Debug::NoLocking=1",
		"-o", "Acquire::Retries=3",
		// As root apt-get would download as the user _apt, who may not write
		// into root's cache folder, and warn about it.
		"-o", "APT::Sandbox::User=root",
	}
	cmd := exec.CommandContext(ctx, "apt-get", append(options, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
	}
	return string(out), nil
}
