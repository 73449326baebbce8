// Package tools builds the programs of the sandbox cluster (Kubernetes, etcd, containerd and
// others) from their Go modules, once, into a cache outside the tree.
//
// Each folder here is a Go module with committed sums, so that the product's go.mod has none of
// their dependencies. Its `tool` lines name what is built, which may be its own main. To compile a
// package takes longer than all else, so the programs of every cluster are in one module, and all
// modules have the product's versions of what they share.
package tools

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// KubernetesVersion is the version that the cluster reports. A binary that is built as a dependency
// cannot read its module's version.
const KubernetesVersion = "v1.37.2"

// module is a folder here and how its programs are built.
type module struct {
	dir     string
	ldflags string
	// otherVersion is a version of Kubernetes other than KubernetesVersion, of which all programs are.
	otherVersion string
	// cgo maps the programs that need cgo to their build tags.
	cgo map[string]string
	// names maps a program to the names of its file, if that is not the last part of its path.
	names map[string][]string
	// tests maps packages of tests, each of which is built as a program, to the name of its file.
	tests map[string]string
}

const ownMains = "github.com/hostport-ccm/hostport-ccm/test/sandbox/tools/programs/"

var modules = []module{
	{
		dir: "programs",
		// The two other tags keep Go's own packages without cgo, as for all other programs.
		cgo:     map[string]string{"github.com/opencontainers/runc": "seccomp,netgo,osusergo"},
		ldflags: versionFlags(KubernetesVersion),
		names: map[string][]string{
			"go.etcd.io/etcd/server/v3": {"etcd"},
			ownMains + "kubernetes":     {"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"},
		},
	},
	{dir: "cni"},
	{dir: "kwok"},
	{dir: "website"},
	{
		dir:     "e2e",
		ldflags: versionFlags(KubernetesVersion),
		tests:   map[string]string{"k8s.io/kubernetes/test/e2e": "e2e.test"},
	},
}

// RealNodes and SimulatedNodes are the modules of a cluster with such nodes, UpstreamTests that of
// Kubernetes' own end-to-end tests, Website that of an ingress controller and DNS.
var (
	RealNodes      = []string{"programs", "cni"}
	SimulatedNodes = []string{"programs", "kwok"}
	UpstreamTests  = []string{"e2e"}
	Website        = []string{"website"}
)

// Flags are for all builds, as the Go command compiles a package again for others. The images and the
// Makefile have the same. No debug information is written, which the linker drops in any case: to write
// it is a quarter to a third of the compiler's work.
const Flags = "-trimpath -gcflags=all=-dwarf=false"

// Progress is called with what is being built, before it begins. The function that it returns is
// called when the build is done.
type Progress func(what string) (done func(error))

// Ensure builds the programs of the needed modules that are not in the cache, and Kubernetes' of
// another version unless that is KubernetesVersion. source is this folder in the checkout. It returns
// the folders of the programs, for a PATH.
func Ensure(ctx context.Context, source string, needed []string, kubernetes string, progress Progress) ([]string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("where to cache the sandbox's programs: %w", err)
	}
	var dirs, missing []string
	modules := slices.DeleteFunc(slices.Clone(modules), func(m module) bool { return !slices.Contains(needed, m.dir) })
	if kubernetes != KubernetesVersion {
		modules = slices.Insert(modules, 0, kubernetesOf(kubernetes))
	}
	for _, m := range modules {
		src := m.source(source)
		dir, err := m.folder(src, filepath.Join(cache, "hostport-ccm", "tools"))
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(dir); err != nil {
			missing = append(missing, src)
		}
		dirs = append(dirs, dir)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(missing) > 0 {
		go download(ctx, missing)
		if err := compileProduct(ctx, filepath.Join(source, "..", "..", ".."), progress); err != nil {
			return nil, err
		}
	}
	for i, m := range modules {
		if src := m.source(source); slices.Contains(missing, src) {
			if err := m.make(ctx, src, dirs[i], progress); err != nil {
				return nil, err
			}
		}
	}
	return dirs, nil
}

// source returns the path of what determines the programs.
func (m module) source(tools string) string {
	if m.otherVersion != "" {
		return filepath.Join(tools, "otherversion.go")
	}
	return filepath.Join(tools, m.dir)
}

// folder returns the folder of a module's programs in the cache.
func (m module) folder(src, cache string) (string, error) {
	key, err := m.key(src)
	return filepath.Join(cache, m.dir+"-"+key), err
}

func (m module) make(ctx context.Context, src, out string, progress Progress) error {
	if m.otherVersion != "" {
		var err error
		src, err = m.derive(ctx, progress)
		defer os.RemoveAll(src)
		if err != nil {
			return err
		}
	}
	mod, err := readGoMod(ctx, src)
	if err != nil {
		return err
	}
	var programs, names []string
	for _, tool := range mod.Tool {
		programs = append(programs, tool.Path)
		names = append(names, m.namesOf(tool.Path)...)
	}
	names = slices.AppendSeq(names, maps.Values(m.tests))
	done := progress("building " + strings.Join(names, " "))
	err = m.buildInto(ctx, src, out, programs)
	done(err)
	return err
}

// buildInto builds into a temporary folder and renames it at the end, so that an interrupted build
// does not look finished.
func (m module) buildInto(ctx context.Context, src, out string, programs []string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(out), ".building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := m.build(ctx, src, tmp, programs); err != nil {
		return err
	}
	for pkg, names := range m.names {
		file := filepath.Join(tmp, defaultName(pkg))
		for _, name := range names {
			if err := os.Link(file, filepath.Join(tmp, name)); err != nil {
				return err
			}
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	// MkdirTemp's 0700 would hide the programs from other users.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp, out); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// build builds the programs without cgo with one command, so that the Go command can use all cores,
// and those with cgo one by one.
func (m module) build(ctx context.Context, src, out string, programs []string) error {
	plain := slices.DeleteFunc(slices.Clone(programs), func(p string) bool { _, ok := m.cgo[p]; return ok })
	if len(plain) > 0 {
		if err := m.goBuild(ctx, src, "0", "", []string{"build", "-o", out + "/"}, plain...); err != nil {
			return err
		}
	}
	for program, tags := range m.cgo {
		if err := m.goBuild(ctx, src, "1", tags, []string{"build", "-o", out + "/"}, program); err != nil {
			return err
		}
	}
	for pkg, name := range m.tests {
		if err := m.goBuild(ctx, src, "0", "", []string{"test", "-c", "-o", filepath.Join(out, name)}, pkg); err != nil {
			return err
		}
	}
	return nil
}

// goBuild runs one of the Go command's commands that build, given with its own arguments.
func (m module) goBuild(ctx context.Context, src, cgo, tags string, command []string, programs ...string) error {
	args := slices.Concat(command, []string{"-mod=readonly", "-tags", tags, "-ldflags", "-s -w" + m.ldflags}, programs)
	cmd := goCommand(ctx, src, args...)
	cmd.Env = append(cmd.Env, "CGO_ENABLED="+cgo)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(programs, " "), err, output)
	}
	return nil
}

// key returns a hash of all that determines the programs.
func (m module) key(src string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH, m.ldflags, m.cgo, m.names, m.tests)
	err := filepath.WalkDir(src, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(file)
		h.Write(data)
		return err
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// namesOf returns the names of a program's file.
func (m module) namesOf(program string) []string {
	if names, ok := m.names[program]; ok {
		return names
	}
	return []string{path.Base(program)}
}

// defaultName returns the file name that the Go command gives a program: the last part of its path
// that is not a major version.
func defaultName(pkg string) string {
	if base := path.Base(pkg); !strings.HasPrefix(base, "v") {
		return base
	}
	return path.Base(path.Dir(pkg))
}

// goMod is a part of a go.mod file.
type goMod struct {
	Tool    []struct{ Path string }
	Require []struct{ Path, Version string }
	Replace []struct{ New struct{ Path string } }
}

// readGoMod reads the go.mod in a folder. To list its tools as packages, the Go command would first
// download their modules, without any output.
func readGoMod(ctx context.Context, dir string) (mod goMod, err error) {
	out, err := goCommand(ctx, dir, "mod", "edit", "-json").Output()
	if err == nil {
		err = json.Unmarshal(out, &mod)
	}
	if err != nil {
		return mod, fmt.Errorf("reading go.mod of %s: %w", dir, err)
	}
	return mod, nil
}

// download downloads the modules that the builds need. It ignores errors: the builds report them.
func download(ctx context.Context, missing []string) {
	for _, src := range missing {
		_ = goCommand(ctx, src, "list", "-deps", "tool", "./...").Run()
	}
}

// compileProduct compiles the packages of the product's images, most of which the programs use too,
// while the programs' modules are downloaded.
func compileProduct(ctx context.Context, root string, progress Progress) (err error) {
	defer func(done func(error)) { done(err) }(progress("compiling hostport-ccm"))
	cmd := goCommand(ctx, root, "list", "-export", "-deps", "./cmd/...")
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	var messages strings.Builder
	cmd.Stderr = &messages
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compiling hostport-ccm: %w\n%s", err, &messages)
	}
	return nil
}

func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS="+Flags, "GOWORK=off")
	return cmd
}

func versionFlags(version string) string {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	const pkg = "k8s.io/component-base/version."
	return fmt.Sprintf(" -X %sgitVersion=%s -X %sgitMajor=%s -X %sgitMinor=%s", pkg, version, pkg, parts[0], pkg, parts[1])
}

// ModuleDir returns the folder of a module that the module in a folder requires.
func ModuleDir(ctx context.Context, dir, module string) (string, error) {
	out, err := goCommand(ctx, dir, "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("where module %s is: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}
