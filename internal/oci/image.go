// Package oci puts files into container images without a container engine,
// and writes the images into archives that `ctr images import`, `skopeo copy`,
// `crane push` and `docker load` read.
//
// Same input, same bytes: every time stamp is the Unix epoch, every owner is
// root, and files are sorted. There are no base images and no network: what an
// image holds is what the caller lists. An image has one layer.
package oci

import (
	"compress/gzip"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	reference "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is one file, directory or symbolic link of an image. At most one of
// Source, Data and Symlink is set; none of them is an empty file.
type File struct {
	// Path in the image, absolute or relative to its root. Directories above it
	// come by themselves, with mode 0755.
	Path string
	// Mode holds the permission bits, and fs.ModeDir for a directory. Setuid,
	// setgid and sticky are kept. Permission bits that are all zero become 0755
	// for a directory, 0644 for a file.
	Mode fs.FileMode
	// Source is a file on this machine whose content is taken.
	Source string
	// Data is the content itself.
	Data []byte
	// Symlink is the target of a symbolic link.
	Symlink string
}

// Image describes an image to be built.
type Image struct {
	// Name is the full reference, such as registry.example/group/name:tag.
	Name string
	// Arch is the architecture as Go names it; empty means amd64. The operating
	// system is always Linux.
	Arch       string
	Files      []File
	Entrypoint []string
	Cmd        []string
	// Env holds NAME=value entries. Without a PATH among them the usual one is
	// added.
	Env []string
	// User runs the entry point, as uid or uid:gid; empty means root.
	User       string
	WorkingDir string
	Labels     map[string]string
	// Compression is a gzip level. The zero value means gzip's usual one; images
	// that never travel are built faster with gzip.BestSpeed.
	Compression int
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// epoch stamps everything, so that the clock leaves no trace in an image.
var epoch = time.Unix(0, 0).UTC()

// Build assembles the image in memory.
func Build(img Image) (v1.Image, error) {
	if err := checkName(img.Name); err != nil {
		return nil, err
	}
	layer, err := newLayer(img.Files, img.level())
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	built := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if built, err = mutate.ConfigFile(built, img.configFile()); err != nil {
		return nil, fmt.Errorf("image %s: setting the config: %w", img.Name, err)
	}
	built, err = mutate.Append(built, mutate.Addendum{
		Layer:     layer,
		MediaType: types.OCILayer,
		History:   v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "hostport-ccm/internal/oci"},
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: adding the layer: %w", img.Name, err)
	}
	return built, nil
}

func (i Image) level() int {
	if i.Compression == 0 {
		return gzip.DefaultCompression
	}
	return i.Compression
}

func (i Image) configFile() *v1.ConfigFile {
	return &v1.ConfigFile{
		Architecture: i.architecture(),
		OS:           "linux",
		Created:      v1.Time{Time: epoch},
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: i.Entrypoint,
			Cmd:        i.Cmd,
			Env:        i.environment(),
			User:       i.User,
			WorkingDir: i.WorkingDir,
			Labels:     i.Labels,
		},
	}
}

func (i Image) architecture() string {
	if i.Arch == "" {
		return "amd64"
	}
	return i.Arch
}

func (i Image) environment() []string {
	if slices.ContainsFunc(i.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		return i.Env
	}
	return append([]string{defaultPath}, i.Env...)
}

// checkName wants a registry's host and a tag in the name: container runtimes
// complete a shorter one, each in its own way, and then do not find the image.
func checkName(name string) error {
	if _, err := reference.NewTag(name, reference.StrictValidation); err != nil {
		return fmt.Errorf("image name %q: want a full one, such as registry.example/group/name:tag: %w", name, err)
	}
	return nil
}
