package oci

import (
	"compress/gzip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestIndexFileHasAllPlatforms reads it as `skopeo copy` and containerd do.
func TestIndexFileHasAllPlatforms(t *testing.T) {
	annotations := map[string]string{"org.opencontainers.image.version": "v1"}
	var images []v1.Image
	for _, arch := range []string{"amd64", "arm64"} {
		built, err := Build(Image{Arch: arch, Files: []File{{Path: "/a", Data: []byte(arch)}}}, gzip.DefaultCompression)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, Annotated(built, annotations))
	}
	index, err := Index(images, annotations)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "images.tar")
	if err := WriteIndexFile(archive, imageName, index); err != nil {
		t.Fatal(err)
	}
	layoutIndex, err := layout.ImageIndexFromPath(untar(t, archive))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(layoutIndex); err != nil {
		t.Fatal(err)
	}
	top, err := layoutIndex.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].MediaType != types.OCIImageIndex || top.Manifests[0].Annotations["io.containerd.image.name"] != imageName {
		t.Fatalf("index.json lists %v, want one image index with the name", top.Manifests)
	}
	read, err := layoutIndex.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	wantPlatforms(t, read, annotations, "linux/amd64", "linux/arm64")
}

// wantPlatforms checks that an index has one image for each platform, all with the annotations.
func wantPlatforms(t *testing.T, index v1.ImageIndex, annotations map[string]string, platforms ...string) {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(annotations, manifest.Annotations); diff != "" {
		t.Errorf("annotations of the index (-want +got):\n%s", diff)
	}
	var got []string
	for _, d := range manifest.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		m, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(annotations, m.Annotations); diff != "" {
			t.Errorf("annotations of %s (-want +got):\n%s", d.Platform, diff)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if d.ArtifactType != "" {
			t.Errorf("the index says that %s is an artifact %s", d.Platform, d.ArtifactType)
		}
		if d.Platform.String() != config.Platform().String() {
			t.Errorf("the index says %s, the image is for %s", d.Platform, config.Platform())
		}
		got = append(got, d.Platform.String())
	}
	if diff := cmp.Diff(platforms, got); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}
