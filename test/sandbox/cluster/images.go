package cluster

import (
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

// Images of the cluster and of tests. They are in every node's store before pods are scheduled, so
// that none is pulled.
const (
	pauseImage   = "registry.k8s.io/pause:3.10.2"
	corednsImage = "registry.k8s.io/coredns/coredns:v1.15.0"
	// AgnhostImage is the upstream test image: servers and clients of all kinds, with a shell.
	AgnhostImage = "registry.k8s.io/e2e-test-images/agnhost:2.66.1"
)

// testImages builds the archive of the images other than the product's.
func (c *Cluster) testImages(ctx context.Context) (string, error) {
	archive := filepath.Join(c.dir, "images.tar")
	pause := filepath.Join(c.dir, "bin", "pause")
	if err := c.goBuild(ctx, pause, "./test/sandbox/pause"); err != nil {
		return "", err
	}
	shell, err := shellFiles(ctx)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", AgnhostImage, err)
	}
	images := map[string]v1.Image{}
	for _, i := range []programImage{
		{pauseImage, pause, v1.Config{User: "65535:65535"}, nil},
		{corednsImage, c.program("coredns"), v1.Config{}, nil},
		{AgnhostImage, c.program("agnhost"), v1.Config{Cmd: []string{"pause"}}, shell},
	} {
		if images[i.name], err = i.build(); err != nil {
			return "", err
		}
	}
	return archive, oci.WriteFile(archive, images)
}

// programImage is an image of a program of the machine, and other files.
type programImage struct {
	name, program string
	config        v1.Config
	files         []oci.File
}

func (i programImage) build() (v1.Image, error) {
	entrypoint := "/" + filepath.Base(i.program)
	program, err := imageFile(i.program, entrypoint)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", i.name, err)
	}
	i.config.Entrypoint = []string{entrypoint}
	built, err := oci.Build(oci.Image{Arch: runtime.GOARCH, Config: i.config, Files: append(i.files, program)}, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", i.name, err)
	}
	return built, nil
}

// shellPrograms are what upstream's tests run in containers of agnhost.
var shellPrograms = []string{"cat", "curl", "echo", "ip", "ls", "nc", "seq", "sh", "sleep", "test", "wget"}

// shellFiles returns the machine's own shellPrograms, with the libraries that they need. BusyBox has
// most of them, but the wget and nc of Debian's lack options that the tests use, and its static shell
// takes them before files of these names.
func shellFiles(ctx context.Context) ([]oci.File, error) {
	sources := map[string]string{} // by path in the image
	for _, program := range shellPrograms {
		source, err := exec.LookPath(program)
		if err != nil {
			return nil, err
		}
		sources["/bin/"+program] = source
		libraries, err := output(exec.CommandContext(ctx, "ldd", source), "ldd "+source)
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(libraries) { // NAME => PATH (ADDRESS), or PATH (ADDRESS)
			if strings.HasPrefix(field, "/") {
				sources[field] = field
			}
		}
	}
	// GNU wget tries once, like that of upstream's image.
	files := []oci.File{{Path: "/etc/wgetrc", Data: []byte("tries = 1\n")}}
	for path, source := range sources {
		file, err := imageFile(source, path)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// imageFile returns a program of the machine as a file of an image.
func imageFile(source, path string) (oci.File, error) {
	data, err := os.ReadFile(source)
	return oci.File{Path: path, Mode: 0o755, Data: data}, err
}

// productImages builds the archives of the product's images as `make images` does.
func (c *Cluster) productImages(ctx context.Context) ([]string, error) {
	if _, err := c.goRun(ctx, "./internal/images", "-out", c.dist()); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(c.dist(), "*.tar"))
}

func (c *Cluster) dist() string { return filepath.Join(c.source, "dist") }

// importImages loads the archives into the store of every running node.
func (c *Cluster) importImages(ctx context.Context, archives ...string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range Nodes(c.shape.Profile) {
		if len(processes(hostCgroup(n.Name, "containerd"))) == 0 {
			continue
		}
		group.Go(func() error {
			for _, archive := range archives {
				if _, err := c.Exec(ctx, n.Name, "ctr", "-n", "k8s.io", "images", "import", archive); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// program returns the path of a built program, or its bare name if there is none, so that the error
// of starting it names it.
func (c *Cluster) program(name string) string {
	for _, dir := range c.bin {
		if file := filepath.Join(dir, name); isFile(file) {
			return file
		}
	}
	return name
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// goBuild builds a static program of this project.
func (c *Cluster) goBuild(ctx context.Context, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir = c.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+tools.Flags)
	_, err := output(cmd, "go build "+pkg)
	return err
}

func (c *Cluster) goRun(ctx context.Context, pkg string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", pkg}, args...)...)
	cmd.Dir = c.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+tools.Flags)
	return output(cmd, "go run "+pkg)
}
