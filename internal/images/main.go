// Command images builds hostport-ccm's two container images without a container engine: static
// programs of this module, and files of Debian packages. It writes each image to an archive, prints
// its size and digest, and fails if an image is larger than its limit.
//
// It does not push the images to a registry.
package main

import (
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
	"github.com/hostport-ccm/hostport-ccm/internal/version"
)

type options struct {
	// out is the folder for the archives.
	out string
	// version is the tag of the images, and the version that their programs report.
	version string
	// arch is the architecture as Go names it.
	arch string
	// module is this module's folder.
	module string
}

func main() {
	var o options
	flag.StringVar(&o.out, "out", "dist", "folder for the archives")
	flag.StringVar(&o.version, "version", version.Current, "tag of the images, and the version that their programs report")
	flag.StringVar(&o.arch, "arch", "amd64", "architecture, as Go names it")
	flag.StringVar(&o.module, "module", ".", "this module's folder")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// row is the format of a line of the table of images.
const row = "%-30s %-52s %10s %8s  %s\n"

// run builds and writes all images at the same time, also if one is too large.
func run(ctx context.Context, o options) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	fmt.Printf(row, "ARCHIVE", "IMAGE", "COMPRESSED", "TOOK", "DIGEST")
	var running sync.WaitGroup
	errs := make([]error, len(products))
	for i, p := range products {
		running.Go(func() { errs[i] = p.write(ctx, o) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// write builds the image, writes its archive and prints its line of the table.
func (p product) write(ctx context.Context, o options) error {
	start := time.Now()
	name, archive := registry+"/"+p.name+":"+o.version, filepath.Join(o.out, p.name+".tar")
	img, err := p.image(ctx, o)
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	built, err := oci.Build(img, gzip.DefaultCompression)
	if err != nil {
		return fmt.Errorf("building image %s: %w", name, err)
	}
	if err := oci.WriteFile(archive, map[string]v1.Image{name: built}); err != nil {
		return fmt.Errorf("writing image %s: %w", name, err)
	}
	size, err := pullSize(built)
	if err != nil {
		return fmt.Errorf("size of image %s: %w", name, err)
	}
	digest, err := built.Digest()
	if err != nil {
		return fmt.Errorf("digest of image %s: %w", name, err)
	}
	fmt.Printf(row, archive, name, fmt.Sprintf("%.1f MiB", float64(size)/mib), time.Since(start).Round(100*time.Millisecond), digest)
	return checkSize(name, size, p.limit)
}

// pullSize returns what a node downloads, in bytes: manifest, config and compressed layers.
func pullSize(img v1.Image) (int64, error) {
	size, err := img.Size()
	if err != nil {
		return 0, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return 0, err
	}
	size += manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return size, nil
}

func checkSize(name string, size, limit int64) error {
	if size <= limit {
		return nil
	}
	return fmt.Errorf("image %s has %.1f MiB compressed, but may have %.0f: look for a new dependency, or raise the limit in internal/images",
		name, float64(size)/mib, float64(limit)/mib)
}
