package cluster

import (
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

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
	// AgnhostImage is the upstream test image: servers and clients of all kinds.
	AgnhostImage = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
)

// testImages builds the archive of the images other than the product's.
func (c *Cluster) testImages(ctx context.Context) (string, error) {
	archive := filepath.Join(c.dir, "images.tar")
	pause := filepath.Join(c.dir, "bin", "pause")
	if err := c.goBuild(ctx, pause, "./test/sandbox/pause"); err != nil {
		return "", err
	}
	images := map[string]v1.Image{}
	for _, i := range []struct {
		name, program string
		config        v1.Config
	}{
		{pauseImage, pause, v1.Config{User: "65535:65535"}},
		{corednsImage, c.program("coredns"), v1.Config{}},
		{AgnhostImage, c.program("agnhost"), v1.Config{Cmd: []string{"pause"}}},
	} {
		data, err := os.ReadFile(i.program)
		if err != nil {
			return "", fmt.Errorf("image %s: %w", i.name, err)
		}
		entrypoint := "/" + filepath.Base(i.program)
		i.config.Entrypoint = []string{entrypoint}
		img := oci.Image{Arch: runtime.GOARCH, Config: i.config, Files: []oci.File{{Path: entrypoint, Mode: 0o755, Data: data}}}
		if images[i.name], err = oci.Build(img, gzip.BestSpeed); err != nil {
			return "", fmt.Errorf("image %s: %w", i.name, err)
		}
	}
	return archive, oci.WriteFile(archive, images)
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
