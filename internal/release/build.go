package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
	"github.com/hostport-ccm/hostport-ccm/internal/product"
	"github.com/hostport-ccm/hostport-ccm/internal/version"
)

// architectures are those of the images, as Go and Debian name them.
var architectures = []string{"amd64", "arm64"}

// build is one of the builds of a release.
type build struct {
	commit
	version  string
	products []product.Product
	// source is the folder with the copy of the commit, out that for the files of the release.
	source, out string
	// env is added to the environment of the Go command that compiles the programs.
	env []string
}

// fromCommit makes a copy of the commit that git has in dir, and all files of the release from it.
func (b build) fromCommit(ctx context.Context, dir string) error {
	fmt.Printf("build of %s from commit %s in %s\n", b.version, b.revision, b.source)
	if err := b.checkout(ctx, dir, b.source); err != nil {
		return err
	}
	if err := version.Set(b.source, b.version); err != nil {
		return err
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	// The notes come first, as they are what most often is missing.
	changes, err := b.changes()
	if err != nil {
		return err
	}
	if err := b.manifests(ctx); err != nil {
		return err
	}
	digests, err := b.images(ctx)
	if err != nil {
		return err
	}
	if err := b.write("RELEASE-NOTES.md", b.notes(changes, digests)); err != nil {
		return err
	}
	return writeSums(b.out)
}

// images writes an archive of each image, and an SBOM of each image and architecture. It returns the
// digests of the images by name.
func (b build) images(ctx context.Context) (map[string]v1.Hash, error) {
	digests := map[string]v1.Hash{}
	for _, p := range b.products {
		annotations := p.Labels(b.version)
		annotations[specs.AnnotationRevision] = b.revision
		var images []v1.Image
		for _, arch := range architectures {
			err := step(fmt.Sprintf("image %s for %s", p.Name, arch), func() error {
				img, err := b.image(ctx, p, arch, annotations)
				images = append(images, img)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		index, err := oci.Index(images, annotations)
		if err != nil {
			return nil, err
		}
		if err := oci.WriteIndexFile(filepath.Join(b.out, p.Name+"-"+b.version+".tar"), p.Reference(b.version), index); err != nil {
			return nil, fmt.Errorf("writing image %s: %w", p.Name, err)
		}
		if digests[p.Name], err = index.Digest(); err != nil {
			return nil, err
		}
	}
	return digests, nil
}

// image returns the image for one architecture, and writes its SBOM.
func (b build) image(ctx context.Context, p product.Product, arch string, annotations map[string]string) (v1.Image, error) {
	built, err := p.Build(ctx, product.Build{Module: b.source, Version: b.version, Arch: arch, Env: b.env})
	if err != nil {
		return nil, err
	}
	img, err := oci.Build(built.Image, gzip.DefaultCompression)
	if err != nil {
		return nil, err
	}
	img = oci.Annotated(img, annotations)
	size, err := oci.PullSize(img)
	if err != nil {
		return nil, err
	}
	if err := p.CheckSize(size); err != nil {
		return nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	program, err := buildinfo.Read(bytes.NewReader(built.Program))
	if err != nil {
		return nil, err
	}
	bom, err := sbom(contents{
		name: p.Name, version: b.version, arch: arch, digest: digest.String(), date: b.date, program: program, packages: built.Packages,
	})
	if err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	return img, b.write(fmt.Sprintf("%s-%s-%s.cdx.json", p.Name, b.version, arch), bom)
}

// write writes a file of the release.
func (b build) write(name string, content []byte) error {
	return os.WriteFile(filepath.Join(b.out, name), content, 0o644)
}
