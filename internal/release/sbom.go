package main

import (
	"bytes"
	"debug/buildinfo"
	"path"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
	purl "github.com/package-url/packageurl-go"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/internal/product"
)

// contents is what an SBOM says of an image for one architecture.
type contents struct {
	name, version, arch string
	// digest is that of the image's manifest.
	digest   string
	date     time.Time
	program  *buildinfo.BuildInfo
	packages []debs.Package
}

// sbom returns a CycloneDX document with the program, the Go modules that are linked into it, and the
// Debian packages of the image. The same contents give the same bytes: the time is that of the commit,
// and the serial number is derived from the digest.
func sbom(c contents) ([]byte, error) {
	image := component(cdx.ComponentTypeContainer, c.name, c.version, purl.NewPackageURL(purl.TypeOCI, "", c.name, c.digest, purl.QualifiersFromMap(map[string]string{
		"arch": c.arch, "repository_url": product.Registry + "/" + c.name, "tag": c.version,
	}), ""))
	program := component(cdx.ComponentTypeApplication, c.program.Main.Path, c.version, golang(c.program.Main.Path, c.version))
	goVersion, _, _ := strings.Cut(strings.TrimPrefix(c.program.GoVersion, "go"), " ")
	modules := []cdx.Component{component(cdx.ComponentTypeLibrary, "stdlib", goVersion, golang("stdlib", goVersion))}
	for _, m := range c.program.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		modules = append(modules, component(cdx.ComponentTypeLibrary, m.Path, m.Version, golang(m.Path, m.Version)))
	}
	var packages []cdx.Component
	for _, p := range c.packages {
		packages = append(packages, component(cdx.ComponentTypeLibrary, p.Name, p.Version, debian(p)))
	}

	bom := cdx.NewBOM()
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte(image.PackageURL)).URN()
	bom.Metadata = &cdx.Metadata{Timestamp: c.date.Format(time.RFC3339), Component: &image}
	components := append(append([]cdx.Component{program}, modules...), packages...)
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{
		{Ref: image.BOMRef, Dependencies: refs(append([]cdx.Component{program}, packages...))},
		{Ref: program.BOMRef, Dependencies: refs(modules)},
	}
	var out bytes.Buffer
	// 1.6 is the newest version that scanners in use can read.
	err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

// component returns a component that other parts of the document refer to by its package URL.
func component(kind cdx.ComponentType, name, version string, url *purl.PackageURL) cdx.Component {
	return cdx.Component{BOMRef: url.ToString(), Type: kind, Name: name, Version: version, PackageURL: url.ToString()}
}

// golang returns the package URL of a module, or of the standard library as scanners know it.
func golang(module, version string) *purl.PackageURL {
	// The specification of package URLs asks for lower case.
	namespace, name := path.Split(strings.ToLower(module))
	return purl.NewPackageURL(purl.TypeGolang, strings.TrimSuffix(namespace, "/"), name, version, nil, "")
}

func debian(p debs.Package) *purl.PackageURL {
	qualifiers := map[string]string{"arch": p.Arch, "distro": strings.TrimSuffix(p.Distribution+"-"+p.Release, "-")}
	if p.Source != p.Name {
		qualifiers["upstream"] = p.Source
	}
	return purl.NewPackageURL(purl.TypeDebian, p.Distribution, p.Name, p.Version, purl.QualifiersFromMap(qualifiers), "")
}

func refs(components []cdx.Component) *[]string {
	var all []string
	for _, c := range components {
		all = append(all, c.BOMRef)
	}
	return &all
}
