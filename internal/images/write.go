package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// built is an image that was written.
type built struct {
	oci.Written
	archive string
	// limit is the size it may have, in bytes.
	limit int64
	took  time.Duration
}

// Err says by how much the image is too large.
func (b built) err() error {
	if b.Size <= b.limit {
		return nil
	}
	return fmt.Errorf("image %s has %.1f MiB compressed, but may have %.0f: look for a new dependency, or raise the limit in internal/images",
		b.Name, float64(b.Size)/mib, float64(b.limit)/mib)
}

// kind is one of the images.
type kind struct {
	archive string
	compose func(context.Context, options) (oci.Image, error)
	limit   int64
}

var kinds = []kind{
	{"hostport-ccm.tar", ccm, ccmLimit},
	{"hostport-nodeproxy.tar", nodeProxy, nodeProxyLimit},
}

// writeAll builds both images and writes each as an archive into dir, which is
// made when missing. The outcome of each is passed to report as it comes.
func writeAll(ctx context.Context, o options, dir string, report func(built)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, k := range kinds {
		b, err := k.write(ctx, o, dir)
		if err != nil {
			return err
		}
		report(b)
	}
	return nil
}

func (k kind) write(ctx context.Context, o options, dir string) (built, error) {
	start := time.Now()
	img, err := k.compose(ctx, o)
	if err != nil {
		return built{}, err
	}
	archive := filepath.Join(dir, k.archive)
	written, err := oci.WriteFile(archive, img)
	if err != nil {
		return built{}, err
	}
	return built{Written: written[0], archive: archive, limit: k.limit, took: time.Since(start)}, nil
}
