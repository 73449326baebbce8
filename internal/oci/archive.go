package oci

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerdName is the annotation from which `ctr images import` takes an image's name as it is.
// To a name from the OCI annotation it adds a prefix.
const containerdName = "io.containerd.image.name"

// WriteFile writes the images, by full name (registry, repository and tag), to an OCI archive: an
// OCI layout in a tar file. The file at target is replaced only by a complete archive.
func WriteFile(target string, images map[string]v1.Image) error {
	return writeArchive(target, func(dir string) error { return writeLayout(dir, images) })
}

// writeArchive replaces the file at target by a tar file of what write writes into a folder.
func writeArchive(target string, write func(dir string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(target), ".images-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := write(dir); err != nil {
		return err
	}
	var files []File
	layoutFS := os.DirFS(dir)
	err = fs.WalkDir(layoutFS, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(layoutFS, p)
		files = append(files, File{Path: p, Data: data})
		return err
	})
	if err != nil {
		return err
	}
	archive, err := tarOf(files)
	if err != nil {
		return err
	}
	complete := filepath.Join(dir, "archive.tar")
	if err := os.WriteFile(complete, archive, 0o644); err != nil {
		return err
	}
	return os.Rename(complete, target)
}

// writeLayout writes the OCI layout, and beside its index the manifest.json of `docker save`, which
// `docker load` and `crane push` read.
func writeLayout(dir string, images map[string]v1.Image) error {
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	var docker tarball.Manifest
	for _, tag := range slices.Sorted(maps.Keys(images)) {
		// Container runtimes complete a shorter name, each in its own way.
		if _, err := name.NewTag(tag, name.StrictValidation); err != nil {
			return fmt.Errorf("image name %q: want a full one, such as registry.example/group/name:tag: %w", tag, err)
		}
		config, err := images[tag].ConfigFile()
		if err != nil {
			return fmt.Errorf("image %s: %w", tag, err)
		}
		names := layout.WithAnnotations(map[string]string{specs.AnnotationRefName: tag, containerdName: tag})
		if err := l.AppendImage(images[tag], names, layout.WithPlatform(*config.Platform())); err != nil {
			return fmt.Errorf("image %s: %w", tag, err)
		}
		manifest, err := images[tag].Manifest()
		if err != nil {
			return fmt.Errorf("image %s: %w", tag, err)
		}
		entry := tarball.Descriptor{RepoTags: []string{tag}, Config: blobPath(manifest.Config.Digest)}
		for _, layer := range manifest.Layers {
			entry.Layers = append(entry.Layers, blobPath(layer.Digest))
		}
		docker = append(docker, entry)
	}
	data, err := json.Marshal(docker)
	if err != nil {
		return err
	}
	return l.WriteFile("manifest.json", data, 0o644)
}

func blobPath(h v1.Hash) string { return path.Join(specs.ImageBlobsDir, h.Algorithm, h.Hex) }
