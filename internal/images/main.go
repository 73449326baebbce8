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
	"github.com/hostport-ccm/hostport-ccm/internal/product"
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
	errs := make([]error, len(product.All))
	for i, p := range product.All {
		running.Go(func() { errs[i] = write(ctx, o, p) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// write builds the image, writes its archive and prints its line of the table.
func write(ctx context.Context, o options, p product.Product) error {
	start := time.Now()
	name, archive := p.Reference(o.version), filepath.Join(o.out, p.Name+".tar")
	built, err := p.Build(ctx, product.Build{Module: o.module, Version: o.version, Arch: o.arch})
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	img, err := oci.Build(built.Image, gzip.DefaultCompression)
	if err != nil {
		return fmt.Errorf("building image %s: %w", name, err)
	}
	if err := oci.WriteFile(archive, map[string]v1.Image{name: img}); err != nil {
		return fmt.Errorf("writing image %s: %w", name, err)
	}
	size, err := oci.PullSize(img)
	if err != nil {
		return fmt.Errorf("size of image %s: %w", name, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return fmt.Errorf("digest of image %s: %w", name, err)
	}
	fmt.Printf(row, archive, name, fmt.Sprintf("%.1f MiB", float64(size)/(1<<20)), time.Since(start).Round(100*time.Millisecond), digest)
	return p.CheckSize(size)
}
