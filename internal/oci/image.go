// Package oci builds container images from lists of files, and writes them as archives that
// `ctr images import`, `skopeo copy`, `crane push` and `docker load` read. It needs no container
// engine, no base image and no network.
//
// The same input gives the same bytes: every time is the Unix epoch, every owner is root, and
// files are sorted.
package oci

import (
	"bytes"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image describes a Linux image of one layer.
type Image struct {
	// Arch is the architecture as Go names it.
	Arch string
	// Config is the configuration of containers. Without Env, they get the usual PATH.
	Config v1.Config
	Files  []File
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

var epoch = v1.Time{Time: time.Unix(0, 0).UTC()}

// Build builds the image in memory. The compression is a level of compress/gzip.
func Build(img Image, compression int) (v1.Image, error) {
	files, err := tarOf(img.Files)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(compression), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("compressing the layer: %w", err)
	}
	if img.Config.Env == nil {
		img.Config.Env = []string{defaultPath}
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	built, err := mutate.ConfigFile(base, &v1.ConfigFile{
		OS:           "linux",
		Architecture: img.Arch,
		Created:      epoch,
		RootFS:       v1.RootFS{Type: "layers"},
		Config:       img.Config,
	})
	if err != nil {
		return nil, fmt.Errorf("setting the config: %w", err)
	}
	return mutate.Append(built, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: epoch, CreatedBy: "hostport-ccm/internal/oci"},
	})
}

// PullSize returns what a node downloads, in bytes: manifest, config and compressed layers.
func PullSize(img v1.Image) (int64, error) {
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
