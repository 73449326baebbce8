// Package debs takes files out of Debian packages for container images.
//
// apt-get downloads a package with all that it depends on, from the machine's apt sources into a
// cache in the user's cache folder. With the packages in the cache no network is used. Nothing is
// installed, root is not needed, and the machine's own package lists stay as they are.
package debs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// Fetch returns the files of a package and of those it depends on. The architecture is named as
// Debian and Go do. Packages missing from the cache are downloaded.
func Fetch(ctx context.Context, arch, pkg string) (*Tree, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	a := apt{dir: filepath.Join(cache, "hostport-ccm", "debs", arch), arch: arch}
	for _, dir := range []string{"lists/partial", "archives/partial", "none/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	lock, err := os.Create(filepath.Join(a.dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Close() // This unlocks it.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	archives, err := a.download(ctx, pkg)
	if err != nil {
		return nil, fmt.Errorf("downloading Debian package %s: %w", pkg, err)
	}
	t := &Tree{files: map[string]file{}}
	for _, archive := range archives {
		if err := t.unpack(ctx, archive); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", archive, err)
		}
	}
	return t, nil
}

// apt runs apt-get with a state of its own in dir.
type apt struct{ dir, arch string }

// uriLine is a line of apt-get --print-uris: quoted URI, file name, size, hash.
var uriLine = regexp.MustCompile(`(?m)^'[^']*' (\S+\.deb) \d+`)

// download returns the paths of the .deb files of the package and of those it depends on.
func (a apt) download(ctx context.Context, pkg string) ([]string, error) {
	_, err := a.get(ctx, "install", "--download-only", pkg)
	if err != nil {
		// There are no package lists yet, or they name a version that the source has replaced.
		if _, err := a.get(ctx, "update"); err != nil {
			return nil, err
		}
		if _, err := a.get(ctx, "install", "--download-only", pkg); err != nil {
			return nil, err
		}
	}
	// This lists what is not in the archives folder, hence the empty one.
	none := "Dir::Cache::archives=" + filepath.Join(a.dir, "none")
	out, err := a.get(ctx, "install", "--print-uris", "-o", none, pkg)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, m := range uriLine.FindAllStringSubmatch(out, -1) {
		paths = append(paths, filepath.Join(a.dir, "archives", m[1]))
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("apt-get lists no packages, its output is:\n%s", out)
	}
	return paths, nil
}

func (a apt) get(ctx context.Context, args ...string) (string, error) {
	options := []string{
		"-q", "-y", "--no-install-recommends",
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		// As no package is installed, apt-get downloads all dependencies.
		"-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache=" + a.dir,
		"-o", "Dir::Cache::archives=" + filepath.Join(a.dir, "archives"),
		"-o", "APT::Architecture=" + a.arch,
		"-o", "APT::Architectures=" + a.arch,
		// Fetch has locked the cache, and locking dpkg's database would need root.
		"-o", "Debug::NoLocking=1",
		// As root, apt-get would download as the user _apt, who cannot write to the cache.
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
