package oci

import (
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotated returns the image with annotations on its manifest.
func Annotated(img v1.Image, annotations map[string]string) v1.Image {
	return mutate.Annotations(img, annotations).(v1.Image)
}

// Index returns an image index of the images, one for each platform, with annotations on the index.
func Index(images []v1.Image, annotations map[string]string) (v1.ImageIndex, error) {
	index := mutate.Annotations(empty.Index, annotations).(v1.ImageIndex)
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("reading the config of an image: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: plain{img}, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return index, nil
}

// plain is an image that is no artifact. For others, go-containerregistry writes the type of the config
// as artifactType into the index, and skopeo 1.9 cannot copy such an index without another digest.
type plain struct{ v1.Image }

// ArtifactType is read by partial.Descriptor.
func (plain) ArtifactType() (string, error) { return "", nil }

// WriteIndexFile writes an image index, by full name, to an OCI archive. `docker load` and a `crane
// push` of the file do not read it: their format has no indexes.
func WriteIndexFile(target, tag string, index v1.ImageIndex) error {
	return writeArchive(target, func(dir string) error {
		if _, err := name.NewTag(tag, name.StrictValidation); err != nil {
			return fmt.Errorf("image name %q: want a full one, such as registry.example/group/name:tag: %w", tag, err)
		}
		l, err := layout.Write(dir, empty.Index)
		if err != nil {
			return err
		}
		return l.AppendIndex(index, layout.WithAnnotations(map[string]string{specs.AnnotationRefName: tag, containerdName: tag}))
	})
}
