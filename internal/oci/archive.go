package oci

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerdName is the annotation from which `ctr images import` takes an
// image's full name; it would complete the OCI one with a prefix of its own.
const containerdName = "io.containerd.image.name"

// Written is an image in an archive.
type Written struct {
	Name   string
	Digest string
	// Size is what a node pulls, in bytes: manifest, config, compressed layer.
	Size int64
}

// WriteFile builds the images and writes one archive of them. The file appears
// complete or not at all.
func WriteFile(path string, images ...Image) ([]Written, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return nil, fmt.Errorf("image archive %s: %w", path, err)
	}
	defer os.Remove(tmp.Name()) // gone already after the rename
	buffered := bufio.NewWriterSize(tmp, 1<<20)
	written, err := Write(buffered, images...)
	err = errors.Join(err, buffered.Flush(), tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return nil, fmt.Errorf("image archive %s: %w", path, err)
	}
	return written, nil
}

// Write builds the images and writes one archive of them to w: an OCI layout
// in a tar file, with the table of contents that `docker load` and `crane
// push` want beside the OCI one.
func Write(w io.Writer, images ...Image) ([]Written, error) {
	a := archive{tar: tar.NewWriter(w), sizes: map[string]int64{}}
	if err := a.json(specs.ImageLayoutFile, specs.ImageLayout{Version: specs.ImageLayoutVersion}); err != nil {
		return nil, err
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	var docker []dockerEntry
	var written []Written
	for _, img := range images {
		descriptor, entry, err := a.image(img)
		if err != nil {
			return nil, fmt.Errorf("writing image %s: %w", img.Name, err)
		}
		index.Manifests = append(index.Manifests, descriptor)
		docker = append(docker, entry)
		size := descriptor.Size + a.size(append(entry.Layers, entry.Config)...)
		written = append(written, Written{Name: img.Name, Digest: descriptor.Digest.String(), Size: size})
	}
	return written, errors.Join(a.json("manifest.json", docker), a.json(specs.ImageIndexFile, index), a.tar.Close())
}

// dockerEntry is one image in the table of contents of `docker save`.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// archive writes blobs under their digests, each once.
type archive struct {
	tar   *tar.Writer
	sizes map[string]int64
}

func (a *archive) size(blobs ...string) (sum int64) {
	for _, name := range blobs {
		sum += a.sizes[name]
	}
	return sum
}

func (a *archive) image(img Image) (v1.Descriptor, dockerEntry, error) {
	built, err := Build(img)
	if err != nil {
		return v1.Descriptor{}, dockerEntry{}, err
	}
	layers, err := a.layers(built)
	if err != nil {
		return v1.Descriptor{}, dockerEntry{}, err
	}
	config, err := a.blob(built.ConfigName, built.RawConfigFile)
	if err != nil {
		return v1.Descriptor{}, dockerEntry{}, err
	}
	if _, err := a.blob(built.Digest, built.RawManifest); err != nil {
		return v1.Descriptor{}, dockerEntry{}, err
	}
	descriptor, err := describe(img, built)
	return descriptor, dockerEntry{Config: config, RepoTags: []string{img.Name}, Layers: layers}, err
}

func describe(img Image, built v1.Image) (v1.Descriptor, error) {
	digest, err := built.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	size, err := built.Size()
	return v1.Descriptor{
		MediaType: types.OCIManifestSchema1,
		Digest:    digest,
		Size:      size,
		Platform:  &v1.Platform{OS: "linux", Architecture: img.architecture()},
		Annotations: map[string]string{
			specs.AnnotationRefName: img.Name,
			containerdName:          img.Name,
		},
	}, err
}

func (a *archive) layers(built v1.Image) ([]string, error) {
	layers, err := built.Layers()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, layer := range layers {
		name, err := a.blob(layer.Digest, func() ([]byte, error) {
			r, err := layer.Compressed()
			if err != nil {
				return nil, err
			}
			defer r.Close()
			return io.ReadAll(r)
		})
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func (a *archive) blob(digest func() (v1.Hash, error), content func() ([]byte, error)) (string, error) {
	hash, err := digest()
	if err != nil {
		return "", err
	}
	name := specs.ImageBlobsDir + "/" + hash.Algorithm + "/" + hash.Hex
	if _, ok := a.sizes[name]; ok {
		return name, nil
	}
	data, err := content()
	if err != nil {
		return "", err
	}
	a.sizes[name] = int64(len(data))
	return name, a.file(name, data)
}

func (a *archive) json(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	return a.file(name, data)
}

func (a *archive) file(name string, data []byte) error {
	h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: epoch, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if err := a.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := a.tar.Write(data)
	return err
}
