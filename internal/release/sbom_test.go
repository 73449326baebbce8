package main

import (
	"bytes"
	"debug/buildinfo"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	purl "github.com/package-url/packageurl-go"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
)

var fixed = contents{
	name: "thing", version: "v1.2.3", arch: "arm64", digest: "sha256:" + strings.Repeat("ab", 32), date: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC),
	program: &buildinfo.BuildInfo{
		GoVersion: "go1.26.8 X:nodwarf5",
		Main:      debug.Module{Path: "example.com/Thing"},
		Deps: []*debug.Module{
			{Path: "github.com/Azure/go-ansiterm", Version: "v0.0.0-20250102033503-faa5f7b0171c"},
			{Path: "go.uber.org/zap", Version: "v1.28.0", Replace: &debug.Module{Path: "example.com/zap/v2", Version: "v2.0.0+incompatible"}},
		},
	},
	packages: []debs.Package{
		{Name: "libc6", Version: "2.36-9+deb12u14", Arch: "arm64", Source: "glibc", Distribution: "debian", Release: "12"},
		{Name: "tool", Version: "1:2.3~rc1", Arch: "all", Source: "tool", Distribution: "debian"},
	},
}

func decoded(t *testing.T, c contents) *cdx.BOM {
	t.Helper()
	data, err := sbom(c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sbom(c)
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("the same contents give other bytes (%v)", err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	return &bom
}

func TestSBOMListsProgramModulesAndPackages(t *testing.T) {
	bom := decoded(t, fixed)
	got := []string{bom.Metadata.Timestamp, bom.Metadata.Component.PackageURL}
	for _, c := range *bom.Components {
		got = append(got, string(c.Type)+" "+c.Name+" "+c.Version+" "+c.PackageURL)
	}
	want := []string{
		"2026-02-03T04:05:06Z",
		"pkg:oci/thing@sha256:" + strings.Repeat("ab", 32) + "?arch=arm64&repository_url=ghcr.io%2Fhostport-ccm%2Fthing&tag=v1.2.3",
		"application example.com/Thing v1.2.3 pkg:golang/example.com/thing@v1.2.3",
		"library stdlib 1.26.8 pkg:golang/stdlib@1.26.8",
		"library github.com/Azure/go-ansiterm v0.0.0-20250102033503-faa5f7b0171c pkg:golang/github.com/azure/go-ansiterm@v0.0.0-20250102033503-faa5f7b0171c",
		"library example.com/zap/v2 v2.0.0+incompatible pkg:golang/example.com/zap/v2@v2.0.0%2Bincompatible",
		"library libc6 2.36-9+deb12u14 pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=arm64&distro=debian-12&upstream=glibc",
		"library tool 1:2.3~rc1 pkg:deb/debian/tool@1:2.3~rc1?arch=all&distro=debian",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("SBOM (-want +got):\n%s", diff)
	}
}

func TestSBOMIsConsistent(t *testing.T) {
	bom := decoded(t, fixed)
	if bom.SpecVersion != cdx.SpecVersion1_6 || !strings.HasPrefix(bom.SerialNumber, "urn:uuid:") {
		t.Errorf("version %s and serial number %s", bom.SpecVersion, bom.SerialNumber)
	}
	known := []string{bom.Metadata.Component.BOMRef}
	for _, c := range *bom.Components {
		known = append(known, c.BOMRef)
		if parsed, err := purl.FromString(c.PackageURL); err != nil || parsed.Version != c.Version {
			t.Errorf("package URL %s has version %q (%v), want %q", c.PackageURL, parsed.Version, err, c.Version)
		}
	}
	for _, d := range *bom.Dependencies {
		for _, ref := range append(*d.Dependencies, d.Ref) {
			if !slices.Contains(known, ref) {
				t.Errorf("a dependency refers to %s, which is not there", ref)
			}
		}
	}
	other := fixed
	other.digest = "sha256:" + strings.Repeat("cd", 32)
	if decoded(t, other).SerialNumber == bom.SerialNumber {
		t.Error("another image has the same serial number")
	}
}
